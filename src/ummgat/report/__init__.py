"""One page about an evaluation, section by section.

page puts the sections together: scenarios, shift, images, card; figures and quality_figures draw.
"""
