"""What three rooms or more share: domains, studies, volumes, files, the draw, configuration. Nothing here knows a
network.

domain (center, sequence), study (THE layout on disk), volume (voxels on a grid), crop and normalise are what images are
made of; files and tensors write so that whatever has its final name is complete; config holds every knob, draw says who
trains, who selects and who tests; metrics and matching measure and match; png, extras and version are small.
"""
