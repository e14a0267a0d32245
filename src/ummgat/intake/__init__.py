"""From a folder of anything (DICOM, BIDS, known layouts, loose images) to a sheet of proposals that the user corrects.

headers reads DICOM, privacy keeps patients out of everything that is shown, stacks turns slices into volumes, propose says
which sequence and why, images reads the other formats, scan walks a folder, sheet is the CSV, convert gives NIfTI.
"""
