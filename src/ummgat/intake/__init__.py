"""What a folder of DICOM, BIDS, NIfTI, MHA or NRRD holds: layouts, proposals, the sheet to correct, conversion.

layouts knows folder conventions, names subjects and centers, headers reads DICOM, privacy keeps patients out of
everything that is shown, stacks turns slices into volumes, propose says which sequence and why, images reads the other
formats, scan walks a folder, sheet is the CSV, convert gives NIfTI.
"""
