"""Are the images right? Directions, distances between domains, enhancement, lesions kept, codes, runs compared.

directions measures against the truth, distances and domain_features compare sets of images by features, enhancement and
kept_lesions ask what became of lesions, codes and separation look at sequence codes; pictures, gallery and code_figures
show; measure does all of it, compare_runs does it for several training runs.
"""
