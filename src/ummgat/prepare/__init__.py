"""From a folder of co-registered, skull-stripped NIfTI studies to a prepared cohort.

layouts finds the files, centers names the centers, labels, normalise and crop treat the voxels,
images prepares one study in memory, store keeps it on disk, cohort does a whole folder.
"""
