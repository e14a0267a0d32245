"""From a folder of anything to masks: studies found and prepared, gaps filled, segmented; volumes, pictures and pages.

cohort is the one call, memory does the same to one study in hand; sources says what a folder is and prepares what is
not prepared. channels decides what the segmenter is given for each sequence, study does one study, record is its
sidecar and the table of volumes. planes draws, page writes HTML.
"""
