"""One row of the sheet: a series or file, what it probably is, and what speaks against using it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nibabel as nib

from ummgat.core.domain import SEQUENCES
from ummgat.core.volume import Grid
from ummgat.intake.propose import Sure
from ummgat.intake.stacks import Stack

NOT_USED = "none"
ROLES = (*SEQUENCES, "seg", "wt", "brain_mask")
"""What a user may write as `sequence`: a sequence, an annotation with labels, one of the whole tumour, a mask of the
brain."""


Accept = Literal["sure", "likely"]
"""How sure a proposal must be to be taken without a person's word."""


@dataclass
class Row:
    """A series or file. Only what `as_dict` gives may be shown."""

    series: str
    """`dicom:` or `file:` and a salted hash, or the path below the folder."""
    kind: str
    subject: str = ""
    session: str = ""
    description: str = ""
    """What the header calls it, without the patient's name."""
    proposal: str | None = None
    sure: Sure = "unknown"
    why: str = ""
    contrast_unsaid: bool = False
    grid: Grid | None = None
    problems: list[str] = field(default_factory=list)
    """Why it cannot be used."""
    doubts: list[str] = field(default_factory=list)
    """Why a person must look before it is used."""
    remarks: list[str] = field(default_factory=list)
    skip: bool = False
    """It could be used, but will not be unless asked for: a copy, an already processed file, a runner-up, or what is no
    sequence."""
    accept: Accept = field(default="sure", repr=False)
    order: tuple[int, str] = field(default=(0, ""), repr=False)
    """Series number, to tell what was acquired first."""
    path: Path | None = field(default=None, repr=False)
    """The file, unless it is a DICOM series."""
    stack: Stack | None = field(default=None, repr=False)

    @property
    def sequence(self) -> str:
        """What the sheet is filled with: the proposal where it is sure enough, `none` for what is not used, else empty,
        to be asked.
        """
        if self.problems or self.skip:
            return NOT_USED
        taken = self.sure == "sure" or self.sure == self.accept
        return self.proposal if self.proposal and taken and not self.doubts else ""

    @property
    def findings(self) -> str:
        """Everything to say about it, in one line."""
        return "; ".join([*(f"refused: {p}" for p in self.problems), *self.doubts, *self.remarks])

    def as_dict(self) -> dict[str, str]:
        """Give the row of the CSV, all text."""
        grid = self.grid
        return {
            "subject": self.subject,
            "session": self.session,
            "series": self.series,
            "kind": self.kind,
            "sequence": self.sequence,
            "proposal": self.proposal or "",
            "sure": self.sure,
            "why": self.why,
            "description": self.description,
            "shape": " × ".join(map(str, grid.shape)) if grid else "",
            "spacing_mm": " × ".join(f"{v:.4g}" for v in grid.spacing_mm) if grid else "",
            "orientation": "".join(nib.aff2axcodes(grid.matrix)) if grid else "",
            "findings": self.findings,
        }


COLUMNS = tuple(Row("", "").as_dict())
