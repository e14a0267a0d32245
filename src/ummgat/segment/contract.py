"""What every segmenter must be: images in, labels on their grid out."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ummgat.core.study import LABELS, Study

Volume = NDArray[np.uint8]


class Segmenter(Protocol):
    """What turns a complete set of images into labels. It never learns what was missing."""

    @property
    def sequences(self) -> tuple[str, ...]:
        """What it must be given; zeros for an empty one."""

    @property
    def regions(self) -> Literal["multi", "wt"]:
        """`multi`: labels as `study.LABELS`. `wt`: one whole tumour, stored as ED."""

    def __call__(self, images: Mapping[str, Volume]) -> Volume:
        """Images (plane, row, column) on one grid → labels on it."""


def checked(found: Any, study: Study, name: str) -> Volume:
    """What a segmenter answered, if it is labels on the study's grid; ValueError if not."""
    found = np.asarray(found)
    if found.shape != study.shape:
        raise ValueError(
            f"Segmenter answers on another grid: {name}. Found shape {found.shape}; expected {study.shape}. Labels "
            f"must lie on the grid of the images."
        )
    known = (0, *LABELS.values())
    strange = np.setdiff1d(found, known)
    if found.dtype.kind not in "iu" or strange.size:
        values = ", ".join(map(str, strange[:8].tolist()))
        raise ValueError(
            f"Segmenter answers with other than labels: {name}. Found {found.dtype} {values}; expected whole numbers "
            f"out of {', '.join(map(str, known))}. Correct its numbering."
        )
    return found.astype(np.uint8, copy=False)
