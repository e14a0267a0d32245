"""The main job from nothing: phantom, training, completion, report, masks.

run does it, report adds a segmenter and the page at the end, masks segments patients who lack sequences.
"""
