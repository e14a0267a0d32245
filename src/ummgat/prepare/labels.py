"""Annotations: foreign label numbers to ours, and from grid to grid."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.study import LABELS
from ummgat.core.volume import Array, Grid, resample
from ummgat.intake.layouts import Regions

_NEIGHBOURS = 0.01

OWN_LABELS = {number: name for name, number in LABELS.items()}
"""Label table of annotations that are numbered as UMMGAT's already."""


def translate(
    data: Array, table: dict[int, str], regions: Regions, where: str
) -> tuple[NDArray[np.uint8], Literal["multi", "wt"]]:
    """Renumber an annotation.

    Parameters
    ----------
    data : ndarray
        Whole numbers, 0 is no lesion.
    table : dict
        Number in the file → name in `LABELS`.
    regions : "multi", "wt" or "unsaid"
        With "unsaid", a file in which 1 is the only label is taken as a whole-tumour mask, because 1 alone cannot
        tell necrosis from "lesion"; WT is right either way and no TC is claimed.
    where : str
        The file, for messages.

    Returns
    -------
    labels : uint8 ndarray of the same shape, numbered as `LABELS`; a copy
    regions : "multi" or "wt"

    Raises
    ------
    ValueError
        Unknown values, or two numbers in one file for the same label.
    """
    values = [v for v in np.unique(data).tolist() if v != 0]
    unknown = [v for v in values if v not in table]
    known = ", ".join(f"{number} {name}" for number, name in table.items())
    if unknown:
        shown = ", ".join(f"{v:g}" for v in unknown[:8]) + (" …" if len(unknown) > 8 else "")
        if unknown == [4] and table.get(3) == "ET":
            raise ValueError(
                f"Label 4 is not clear: {where}. Found {', '.join(f'{v:g}' for v in values)}; expected 0 and {known}: "
                f"4 is enhancing tumour in BraTS to 2020, and the cavity in annotations after treatment. Say `ummgat "
                f"prepare --label-numbers brats2018` if it is enhancing tumour; renumber the file if it is a cavity."
            )
        raise ValueError(
            f"Unknown label: {where}. Found {shown}; expected 0 and {known}. Choose the right --layout, or renumber "
            f"the file."
        )
    if regions == "unsaid":
        if values == [1]:
            return (data == 1).astype(np.uint8) * np.uint8(LABELS["ED"]), "wt"
        regions = "multi"
    names = [table[int(v)] for v in values]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Two numbers for one label: {where}. Found {', '.join(f'{v:g}' for v in values)}; expected one number per "
            f"label out of {known}. Renumber the file."
        )
    labels = np.zeros(data.shape, np.uint8)
    for value, name in zip(values, names, strict=True):
        labels[data == value] = LABELS[name]
    return labels, regions


def resample_labels(labels: NDArray[np.uint8], source: Grid, target: Grid) -> NDArray[np.uint8]:
    """Lesion where at least half of the voxel is; there, the label with the largest share.

    Nearest neighbour would shift everything by half a voxel whenever the spacing doubles, and a plain majority among
    background and labels loses lesion where several labels meet the edge. Equal shares are frequent (eighths when the
    spacing doubles); a fixed order of preference made ET 9 % too large on BraTS at 2 mm, so the surroundings decide.

    Parameters
    ----------
    labels : uint8 ndarray of shape source.shape
    source, target : Grid

    Returns
    -------
    uint8 ndarray of shape target.shape, a copy
    """
    if source.matches(target):
        return labels.copy()
    present = [label for label in LABELS.values() if (labels == label).any()]
    out = np.zeros(target.shape, np.uint8)
    if not present:
        return out
    shares = np.stack([resample(_with_surroundings(labels == label), source, target) for label in present])
    inside = shares.sum(axis=0) >= 0.5
    out[inside] = np.array(present, np.uint8)[shares.argmax(axis=0)[inside]]
    return out


def _with_surroundings(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Let each voxel of the indicator of `mask` say 1 % what its 3 × 3 × 3 neighbourhood says: enough to settle
    ties.
    """
    value = mask.astype(np.float32)
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in found)
    around = ndimage.uniform_filter(value[box], 3, mode="nearest")
    value[box] = (1 - _NEIGHBOURS) * value[box] + _NEIGHBOURS * around
    return value
