"""The knobs of `prepare`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ummgat.intake.layouts import LAYOUTS
from ummgat.intake.names import check_name


@dataclass(frozen=True)
class RawSettings:
    """How raw studies are treated; plain, so that it is read without SimpleITK."""

    template: Path | None = None
    """None: MNI152 on 240 × 240 × 155 voxels of 1 mm."""
    reference: str | None = None
    """Sequence to which the others are registered; None: see `register.choose_reference`."""
    n4: bool = False
    """Take the shading of coils out before registration."""


class PrepareSettings(BaseModel):
    """How to prepare a cohort. Exactly one of `center`, `centers` and `center_pattern` must be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: str = "auto"
    """A name in `LAYOUTS`, or `auto`."""
    spacing_mm: float = Field(1.0, ge=0.2, le=20)
    """Isotropic voxel size of the prepared cohort."""
    crop_mm: tuple[float, float, float] = (155.0, 176.0, 176.0)
    """(plane, row, column) of the training crop; only used to count the brain voxels it would lose."""
    raw: bool = False
    """Studies come as scanned: register and strip them first, see `pipeline`."""
    template: Path | None = None
    """With `raw`: image to register to; None is MNI152."""
    reference: str | None = None
    """With `raw`: sequence to which the others are registered; None lets `register.choose_reference` choose."""
    brain_mask: str | None = None
    """With `raw`: name of a brain mask in every study's folder; None looks for the brain."""
    n4: bool = False
    """With `raw`: take shading out."""
    label_numbers: Literal["brats2018", "brats2023"] | None = None
    """What numbers mean in annotations whose layout does not say it; None asks where that is not clear."""
    center: str | None = None
    """One center for all subjects."""
    centers: Path | None = None
    """CSV with columns subject,center, or JSON with a "center" map."""
    center_pattern: str | None = None
    """Regular expression searched in the subject name; its first group is the center."""

    def raw_settings(self) -> RawSettings:
        """What `pipeline.align_subject` wants to know."""
        return RawSettings(self.template, self.reference, self.n4)

    @model_validator(mode="after")
    def _valid(self) -> "PrepareSettings":
        if self.layout != "auto" and self.layout not in LAYOUTS:
            raise ValueError(
                f"Unknown layout: --layout. Found {self.layout!r}; expected auto, {', '.join(LAYOUTS)}. Choose one of "
                f"these."
            )
        if not all(0 < side < 10_000 for side in self.crop_mm):
            raise ValueError(
                f"Bad training crop. Found {self.crop_mm} mm; expected three positive sizes. Correct them."
            )
        only_raw = [name for name in ("template", "reference", "brain_mask", "n4") if getattr(self, name)]
        if only_raw and not self.raw:
            raise ValueError(
                f"Setting needs --raw: {', '.join('--' + name.replace('_', '-') for name in only_raw)}. Found it "
                f"without; expected it with --raw, which registers and strips. Add --raw, or leave it out."
            )
        given = [name for name in ("center", "centers", "center_pattern") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Center is not clear. Found {' and '.join(given) or 'nothing'}; expected exactly one of --center, "
                "--centers, --center-pattern. Say which center the subjects come from."
            )
        if self.center is not None:
            check_name(self.center, "center", "--center")
        if self.center_pattern is not None:
            try:
                groups = re.compile(self.center_pattern).groups
            except re.error as error:
                raise ValueError(
                    f"Center pattern is not a regular expression: --center-pattern. Found {self.center_pattern!r} "
                    f"({error}); expected for example 'BraTS_([A-Z]+)_'. Correct it."
                ) from error
            if groups < 1:
                raise ValueError(
                    f"Center pattern has no group: --center-pattern. Found {self.center_pattern!r}; expected one pair "
                    f"of parentheses around the center. Add it."
                )
        return self
