"""Blinded reading: the page, its answers scored, how far readers agree.

make selects and hides the images, page shows them, score reads the answers, agreement holds the statistics of readers.
"""
