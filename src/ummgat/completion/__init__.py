"""Studies completed: filled in memory, on disk, from scans, and back in the grid of the scan; how far to trust each
voxel.

fill does one study in memory, cohort a folder of prepared studies, scans a folder of studies as scanned; native brings
images back to the grid of the scan, reliability says where answers disagree.
"""
