"""Which of several series of one exam to take as a sequence: rules in order, each with the reason it gives."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ummgat.intake.rows import Row

THIN_MM = 1.5
"""Thickest side of a voxel up to which a volume looks the same from all sides."""

_BRAIN_MM = (110.0, 130.0, 130.0)
"""Least extents, shortest first, of a volume that holds a whole brain."""

_SAME_VOXELS = 1.25
"""Volumes of voxels that differ by less than this factor are equally fine."""

_B, _E = r"(?<![a-z])", r"(?![a-z])"
_COMPUTED = rf"{_B}(mpr|mpvr|mp|reformat\w*|recon\w*|rekon\w*|mip|minip|filtered){_E}"
_COMPUTED_TYPES = {"DERIVED", "SECONDARY", "MPR", "REFORMATTED", "MIP", "PROJECTION IMAGE", "CSA RESAMPLED"}
_FAT = rf"{_B}(fs|fatsat|fat|spir|spair|dixon|water){_E}"
_AGAIN = rf"{_B}(repeat|rep|rpt|wdh|wiederholung){_E}"
_MOVED = rf"{_B}(motion|moved|bewegt|bewegung|artefa[ck]t|artifact){_E}"


class Judged(NamedTuple):
    """What a rule says of a row: lower ranks are preferred, `words` say why."""

    rank: int
    words: str


def _sure(row: Row, _: Sequence[Row]) -> Judged:
    return Judged(0, "sure") if row.sure == "sure" else Judged(1, "only likely")


def _original(row: Row, _: Sequence[Row]) -> Judged:
    types = set() if row.stack is None else {part.strip().upper() for part in row.stack.first.facts.image_type}
    if types & _COMPUTED_TYPES or re.search(_COMPUTED, _text(row)):
        return Judged(1, "reformatted or otherwise computed")
    return Judged(0, "as acquired")


def _whole(row: Row, _: Sequence[Row]) -> Judged:
    if row.grid is None:
        return Judged(1, "of unknown extent")
    extents = sorted(n * mm for n, mm in zip(row.grid.shape, row.grid.spacing_mm, strict=True))
    if all(found >= least for found, least in zip(extents, _BRAIN_MM, strict=True)):
        return Judged(0, "whole brain")
    return Judged(1, f"{' × '.join(f'{mm:.0f}' for mm in extents)} mm, less than a brain")


def _steady(row: Row, _: Sequence[Row]) -> Judged:
    text = _text(row)
    if re.search(_MOVED, text):
        return Judged(2, "said to hold artefacts")
    return Judged(0, "said to be a repetition") if re.search(_AGAIN, text) else Judged(1, "not said to be a repetition")


def _without_suppression(row: Row, _: Sequence[Row]) -> Judged:
    return Judged(1, "fat suppressed") if re.search(_FAT, _text(row)) else Judged(0, "not fat suppressed")


def _thin(row: Row, _: Sequence[Row]) -> Judged:
    thickest = _thickest(row)
    return Judged(sum(thickest > limit for limit in (THIN_MM, 3.2, 6.6)), f"voxels up to {thickest:.3g} mm")


def _axial(row: Row, _: Sequence[Row]) -> Judged:
    """Of thick slices: segmenters and readers are used to axial ones."""
    if row.grid is None or _thickest(row) <= THIN_MM:
        return Judged(0, "thin from all sides")
    through = row.grid.matrix[:3, int(np.argmax(row.grid.spacing_mm))]
    plane = ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(through)))]
    return Judged(0 if plane == "axial" else 1, f"{plane} slices")


def _fine(row: Row, rivals: Sequence[Row]) -> Judged:
    finest = min(_voxel(rival) for rival in rivals)
    return Judged(int(_voxel(row) > _SAME_VOXELS * finest), f"voxels of {_voxel(row):.3g} mm³")


RULES: tuple[Callable[[Row, Sequence[Row]], Judged], ...] = (
    _sure,
    _original,
    _whole,
    _steady,
    _without_suppression,
    _thin,
    _axial,
    _fine,
)
"""From the most to the least important: a later one decides between rows that all earlier ones hold for equal."""


def prefer(rivals: Sequence[Row], sequence: str) -> None:
    """Choose among rows that could all be `sequence`; the others are set aside, and every row says why. Changes the
    rows.

    Rows between which no rule decides are a true tie: each is left in doubt, for a person to choose.

    Parameters
    ----------
    rivals : sequence of Row
        At least two, usable, of one exam.
    sequence : str
        What each of them is proposed as.
    """
    left = list(rivals)
    set_aside: list[tuple[Row, Judged, Judged]] = []
    for rule in RULES:
        judged = [(row, rule(row, left)) for row in left]
        best = min((found for _, found in judged), key=lambda found: found.rank)
        set_aside += [(row, found, best) for row, found in judged if found.rank > best.rank]
        left = [row for row, found in judged if found.rank == best.rank]
    for row, found, best in set_aside:
        row.skip = True
        row.remarks.append(f"runner-up as {sequence} to {_names(left)}: {found.words}, not {best.words}")
    if len(left) > 1:
        for row in left:
            others = [other for other in left if other is not row]
            row.doubts.append(f"could be {sequence} like {_names(others)}: choose one")
    elif set_aside:
        others = [row for row in rivals if row is not left[0]]
        reasons = dict.fromkeys(best.words for _, _, best in set_aside)
        left[0].remarks.append(f"preferred as {sequence} to {_names(others)}: {', '.join(reasons)}")


def _names(rows: Sequence[Row]) -> str:
    more = f" and {len(rows) - 2} more" if len(rows) > 2 else ""
    return ", ".join(row.series for row in rows[:2]) + more


def _text(row: Row) -> str:
    return re.sub(r"[_.:,;()\[\]]+", " ", row.description.lower())


def _thickest(row: Row) -> float:
    return float("inf") if row.grid is None else max(row.grid.spacing_mm)


def _voxel(row: Row) -> float:
    """mm³."""
    return float("inf") if row.grid is None else float(np.prod(row.grid.spacing_mm))
