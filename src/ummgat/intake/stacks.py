"""Turn planes into volumes: divide a series where it holds several, sort by position, and refuse what is no regular
stack.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.core.volume import Grid
from ummgat.intake.headers import Plane
from ummgat.intake.series import SourceInstance, SourceSeries, stack_affine

FEW = 8
"""Fewer planes than this cannot show a brain."""

_GAP = 0.05
"""How far steps between planes may differ from the usual step, as a share of it."""

_TILT_DEGREES = 0.1
_SAME = 1e-3
_MR_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR",
}


@dataclass
class Stack:
    """Planes of one series that belong to one volume. `problems` keep it from being used, `remarks` do not."""

    planes: list[Plane] = field(repr=False)
    grid: Grid | None = None
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def first(self) -> Plane:
        """Its header speaks for all."""
        return self.planes[0]

    def part(self) -> str:
        """What tells this volume from others of the same series, as text; the same however often it is read."""
        p = self.first
        direction = [f"{v:.2f}" for v in p.orientation]
        return repr((p.rows, p.columns, direction, [f"{v:.3f}" for v in p.spacing], p.volume, p.facts.image_type))

    def source(self, series_id: str, subject: str, session: str) -> SourceSeries:
        """Give the volume under the names of a sheet; ValueError if it is refused."""
        if self.problems or self.grid is None:
            raise ValueError(
                f"Series cannot be used: {series_id}. Found {'; '.join(self.problems)}; expected a regular stack of "
                f"grey MR planes. Leave it out, or export it again."
            )
        instances = tuple(
            SourceInstance(p.file, p.sop_class_uid, p.sop_instance_uid, p.frame, _triple(p.position))
            for p in self.planes
        )
        p = self.first
        uids = (p.study_uid, p.series_uid, p.frame_of_reference_uid)
        return SourceSeries(series_id, subject, session, *uids, instances, self.grid, p.orientation)


def make_stacks(planes: Sequence[Plane]) -> list[Stack]:
    """Divide the planes of one series of one patient into volumes, each checked.

    A series is divided by direction, matrix, voxel size, echo time, b-value, time point, inversion time and image type.
    """
    planes, remarks, problems = _without_copies(planes)
    stacks: list[Stack] = []
    for plane in planes:
        home = next((stack for stack in stacks if _belong(stack.first, plane)), None)
        if home is None:
            stacks.append(home := Stack([]))
        home.planes.append(plane)
    directions = {tuple(np.round(np.abs(_normal(s.first)), 1)) for s in stacks if len(s.first.orientation) == 6}
    for stack in stacks:
        stack.problems += problems
        stack.remarks += remarks
        if len(stacks) > 1:
            stack.remarks.append(f"one of {len(stacks)} volumes in its series")
        if "LOCALIZER" in stack.first.facts.image_type:
            stack.problems.append("a localizer")
        elif len(directions) >= 3 and len(stack.planes) < 3 * FEW:
            stack.problems.append("a localizer or projections: few planes in several directions")
        _check_images(stack)
        if not stack.problems:
            _check_geometry(stack)
    return stacks


def _check_images(stack: Stack) -> None:
    """Find problems that each plane has by itself; geometry is not looked at yet."""
    first = stack.first
    if first.modality != "MR":
        stack.problems.append("its modality is not MR")
    elif first.sop_class_uid not in _MR_CLASSES:
        stack.problems.append("a secondary capture or processed object, not an MR image")
    if any(plane.colour for plane in stack.planes):
        stack.problems.append("not plain grey: a colour, palette or inverted image")
    if first.generated:
        stack.problems.append("says it is generated: only acquired images may be a source")
    if "MOSAIC" in first.facts.image_type:
        stack.problems.append("a mosaic of planes in one image")
    bad = [plane.problem for plane in stack.planes if plane.problem]
    if bad:
        stack.problems.append(f"{len(bad)} of {len(stack.planes)} planes cannot be read: {bad[0]}")
    body = first.facts.body_part
    if body and not any(part in body for part in ("HEAD", "BRAIN", "SKULL", "SCHAEDEL", "KOPF", "NEURO")):
        stack.remarks.append("the header names another part of the body than the head")
    if "DERIVED" in first.facts.image_type:
        stack.remarks.append("derived: computed from other images")
    missing = (first.n_expected or 0) - len(stack.planes)
    if missing > 0 and "volumes in its series" not in " ".join(stack.remarks):
        stack.remarks.append(f"the header announces {first.n_expected} planes, {missing} more than there are")


def _check_geometry(stack: Stack) -> None:
    """Sort by position and give the stack its grid, or its problem."""
    first = stack.first
    if any(len(p.orientation) != 6 or len(p.position) != 3 for p in stack.planes):
        stack.problems.append("planes without position or orientation")
        return
    if any(len(p.spacing) != 2 or min(p.spacing) < _SAME for p in stack.planes):
        stack.problems.append("voxel size missing or zero")
        return
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > 1e-2:
        stack.problems.append("the axes of the planes are not of length 1 at right angles")
        return
    if len(stack.planes) < FEW:
        stack.problems.append(f"only {len(stack.planes)} planes, too few to show a brain")
        return
    normal = _normal(first)
    positions = np.array([p.position for p in stack.planes])
    order = np.argsort(positions @ normal, kind="stable")
    stack.planes, positions = [stack.planes[i] for i in order], positions[order]
    heights = positions @ normal
    steps = np.diff(heights)
    distinct = 1 + int((steps > 0.01).sum())
    if distinct < len(steps) + 1:
        stack.problems.append(
            f"{len(heights)} planes at {distinct} positions: several volumes in one, or planes twice; expected one "
            f"volume"
        )
        return
    usual = float(np.median(steps))
    uneven = np.abs(steps - usual) > usual * _GAP
    if uneven.any():
        lost = int(np.rint(steps[uneven] / usual - 1).clip(0).sum())
        stack.problems.append(
            f"missing planes: {lost} in {int(uneven.sum())} gaps of up to {steps.max():.4g} mm where steps are "
            f"{usual:.4g} mm"
            if lost
            else f"uneven steps between planes: {steps.min():.4g} to {steps.max():.4g} mm"
        )
        return
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    line = positions[0] + np.arange(len(positions))[:, None] * step
    off = float(np.abs(line - positions).max())
    if off > _GAP * usual:
        stack.problems.append(f"planes lie up to {off:.2g} mm off a regular stack")
        return
    tilt = float(np.degrees(np.arccos(np.clip(normal @ step / np.linalg.norm(step), -1, 1))))
    if tilt > _TILT_DEGREES:
        stack.problems.append(
            f"sheared: planes are shifted along by {tilt:.2g}° (gantry tilt), expected a straight stack"
        )
        return
    orientation = [*(row / np.linalg.norm(row)), *(column / np.linalg.norm(column))]
    shape = (first.columns, first.rows, len(stack.planes))
    stack.grid = Grid.of(shape, stack_affine(orientation, first.spacing, positions[0], step))


def _without_copies(planes: Sequence[Plane]) -> tuple[list[Plane], list[str], list[str]]:
    """Drop files that are copies of another; say how many, and refuse different files under one UID."""
    kept: dict[tuple[str, int | None], Plane] = {}
    copies, clashes = 0, 0
    digest = cache(_digest)  # a multi-frame file is asked for once per frame
    for plane in sorted(planes, key=lambda p: (str(p.file), p.frame or 0)):
        name = (plane.sop_instance_uid, plane.frame)
        if not plane.sop_instance_uid or name not in kept:
            kept[name if plane.sop_instance_uid else (str(plane.file), plane.frame)] = plane
        elif digest(plane.file) == digest(kept[name].file):
            copies += 1
        else:
            clashes += 1
    remarks = [f"{copies} planes are there twice, as copies; one of each is used"] if copies else []
    problems = [f"{clashes} planes share the UID of another that differs"] if clashes else []
    return list(kept.values()), remarks, problems


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _belong(a: Plane, b: Plane) -> bool:
    """Whether two planes of one series can be parts of one volume."""
    if (a.rows, a.columns, a.volume, a.facts.image_type) != (b.rows, b.columns, b.volume, b.facts.image_type):
        return False
    return _near(a.orientation, b.orientation) and _near(a.spacing, b.spacing)


def _near(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < _SAME for x, y in zip(a, b, strict=True))


def _normal(plane: Plane) -> NDArray[np.float64]:
    normal = np.cross(plane.orientation[:3], plane.orientation[3:])
    length = float(np.linalg.norm(normal))
    return np.asarray(normal / length if length else normal, np.float64)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = values
    return float(x), float(y), float(z)
