"""Sections on the images themselves: who was measured, errors, distances, enhancement, codes, pictures."""

from pathlib import Path

from ummgat.report.section import Section


def image_sections(results: Path) -> list[Section]:
    """Sections of whatever an evaluation folder holds of images."""
    return []
