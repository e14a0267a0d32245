"""The knobs of `pipeline`, apart from it so that settings are read without SimpleITK."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RawSettings:
    """How raw studies are treated."""

    template: Path | None = None
    """None: MNI152 of nilearn on 240 × 240 × 155 voxels of 1 mm."""
    reference: str | None = None
    """Sequence to which the others are registered; None: see `register.choose_reference`."""
    n4: bool = False
    """Take the shading of coils out before registration."""
