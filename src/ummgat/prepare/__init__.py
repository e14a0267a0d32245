"""The left edge: scans registered, stripped, normalised and stored in one layout.

centers names the centers; register, search, rigid, brain, skullstrip, deepbet, n4 and template bring raw scans onto one
grid, pipeline in that order; labels and images treat the voxels of one study in memory, one does a study, store keeps
it on disk, cohort does a whole folder.
"""
