"""Does it help the segmenter? Scenarios, substitutes, Dice and HD95, statistics, other centers.

scenarios says what may be missing and what may stand in for it, segmentation runs them all, cross_center asks the same
across centers, results is the long table, statistics and tables read it, lesion_wise scores as BraTS 2023, cohort_table
says whose images they were.
"""
