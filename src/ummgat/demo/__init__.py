"""The main job from nothing: phantom, training, completion, report.

run does it, report adds a segmenter and the page at the end.
"""
