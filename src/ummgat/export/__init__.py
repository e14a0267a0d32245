"""Completed studies out: DICOM series and SEG, BIDS derivatives.

wording says what a generated image must say of itself, deidentify takes patients out of DICOM, header is what an object
inherits from its source, dicom and seg write, sources finds the series that a volume belongs to, completed reads what
`ummgat complete` wrote, bids and cohort write whole cohorts.
"""
