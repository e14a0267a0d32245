"""Brains that never lived: tissue maps of one subject, by deforming the MNI152 atlas or a few ellipsoids.

The atlas is MNI152 (ICBM 2009a, Fonov et al. 2011); nothing is downloaded. Positions are MNI
millimetres, x to the right, y forward, z up. Arrays are (plane, row, column), rows running backward and columns to
the patient's left, as in BraTS files.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.machine import template_file
from ummgat.core.volume import Grid
from ummgat.phantom.noise import Field, enlarge, smooth_noise

TISSUES = ("wm", "gm", "dgm", "csf")
"""Healthy tissues: white, cortical grey, deep grey matter, cerebrospinal fluid."""

_ATLAS_CENTER = np.array([0.0, -17.0, 4.0])  # middle of the atlas brain, MNI mm
_CROP = (slice(0, 160), slice(22, 213), slice(21, 176))  # of the atlas files: the brain and a margin
_ATLAS_ORIGIN = (72, 112, 77)  # (plane, row, column) of MNI (0, 0, 0) in the cropped atlas
_MAPS = ("wm", "gm", "csf", "ventricles", "brain")
_LATTICE_MM = 4.0  # displacements are computed this far apart and interpolated


@dataclass(frozen=True)
class Frame:
    """The voxels a phantom is made on: full shape, how many anatomical mm a voxel spans, and the file's grid.

    For the analytic miniature `unit_mm` (anatomy) is larger than the spacing written to the file.
    """

    shape: tuple[int, int, int]
    """(plane, row, column)."""
    unit_mm: float
    grid: Grid


@dataclass
class Anatomy:
    """Tissue fractions of one subject inside `box`, all float32 of the box's shape and summing to 1 in `mask`."""

    frame: Frame
    box: tuple[slice, slice, slice]
    """Where the brain is in the full arrays."""
    mask: NDArray[np.bool_]
    """Brain, of the box's shape."""
    fractions: dict[str, Field]
    """One map per tissue in `TISSUES`."""
    ventricles: Field
    """Fraction of ventricular fluid, contained in `csf`."""
    rim: Field
    """0.5 at the brain surface, rising to 1 within about 2 mm inwards."""
    position: NDArray[np.float32]
    """Undeformed atlas position (x, y, z) in MNI mm of every box voxel, shape (3, *box)."""


def brats_frame(spacing_mm: float) -> Frame:
    """BraTS field of view (240 × 240 × 155 mm) at `spacing_mm`, with BraTS's own axis directions.

    Voxel edges start at the same corner whatever the spacing, as in `Grid.canonical`.
    """
    x, y, z = (math.ceil(n / spacing_mm - 1e-3) for n in (240, 240, 155))
    half = (spacing_mm - 1) / 2
    affine = np.array(
        [
            [-spacing_mm, 0, 0, -half],
            [0, -spacing_mm, 0, 239 - half],
            [0, 0, spacing_mm, half],
            [0, 0, 0, 1],
        ]
    )
    return Frame((z, y, x), spacing_mm, Grid.of((x, y, z), affine))


def analytic_frame(spacing_mm: float, shape: tuple[int, int, int] = (24, 28, 28)) -> Frame:
    """Make a miniature brain on few voxels; the file says `spacing_mm`, the anatomy spans about 190 mm."""
    z, y, x = shape
    affine = np.array(
        [[-spacing_mm, 0, 0, 0], [0, -spacing_mm, 0, (y - 1) * spacing_mm], [0, 0, spacing_mm, 0], [0, 0, 0, 1]]
    )
    return Frame(shape, max(168 / z, 196 / y, 160 / x), Grid.of((x, y, z), affine))


def make_positions(frame: Frame, step: int) -> NDArray[np.float32]:
    """MNI position, before any deformation, of every `step`-th voxel and one beyond; shape (3, planes, rows,
    columns).
    """
    nodes = [np.arange(0, n - 1 + step, step, dtype=np.float32) for n in frame.shape]
    plane, row, column = (
        (axis - (n - 1) / 2) * np.float32(frame.unit_mm) for axis, n in zip(nodes, frame.shape, strict=True)
    )
    center = _ATLAS_CENTER.astype(np.float32)
    out = np.empty((3, plane.size, row.size, column.size), np.float32)
    out[0] = center[0] - column[None, None, :]
    out[1] = center[1] - row[None, :, None]
    out[2] = center[2] + 4 + plane[:, None, None]  # BraTS brains sit a little below the middle of the field of view
    return out


@dataclass(frozen=True)
class _Atlas:
    """MNI152 maps at 1 mm, (plane, row, column, map), rows forward and columns to the right."""

    maps: Field
    """Probabilities, in the order of `_MAPS`; `ventricles` is a part of csf."""
    pull: Field
    """x, y, z of a vector field toward the ventricles, longest vector 1."""


_TISSUES: tuple[Literal["wm", "gm", "t1"], ...] = ("wm", "gm", "t1")


@lru_cache(maxsize=1)
def _atlas() -> _Atlas:
    """Read the maps, which come with the package."""
    maps: list[Field] = []
    for kind in _TISSUES:
        data = np.asarray(nib.Nifti1Image.from_filename(template_file(kind)).dataobj, dtype=np.float32)
        maps.append(np.ascontiguousarray(data.T[_CROP]) / np.float32(255))
    white, grey, t1 = maps
    brain = (t1 > 0).astype(np.float32)
    fluid = np.clip(brain - white - grey, 0, 1)
    half = 2 * ndimage.distance_transform_edt(np.pad(brain[::2, ::2, ::2], 1))[1:-1, 1:-1, 1:-1]
    depth = enlarge(half.astype(np.float32), 2, brain.shape)
    plane, row, column = np.ogrid[tuple(slice(-o, n - o) for n, o in zip(brain.shape, _ATLAS_ORIGIN, strict=True))]
    inner = (np.abs(column) < 42) & (row > -62) & (row < 40) & (plane > -16) & (plane < 34) & (depth > 22)
    inner &= (np.abs(column) > 12) | (row > -26) | (plane > 10)  # not the cisterns behind the midbrain
    ventricles = np.where(inner, fluid, 0).astype(np.float32)
    z, y, x = np.gradient(ndimage.gaussian_filter(ventricles, 5.0))
    longest = np.sqrt(x**2 + y**2 + z**2).max()
    soft_brain = ndimage.gaussian_filter(brain, 1.0)
    return _Atlas(
        np.stack([white, grey, fluid, ventricles, soft_brain], -1),
        np.asarray(np.stack([x, y, z], -1) / longest, np.float32),
    )


@lru_cache(maxsize=2)
def _blurred(blur_mm: float) -> tuple[Field, Field]:
    """Average the atlas over voxels of `blur_mm`, so that larger voxels hold partial volumes, not picked points.

    Returns all maps (plane, row, column, map), and once more the brain alone.
    """
    maps = _atlas().maps
    if blur_mm > 1:
        size = blur_mm / 2.355
        maps = ndimage.gaussian_filter(maps, (size, size, size, 0), truncate=3.0)
    return maps, np.ascontiguousarray(maps[..., _MAPS.index("brain")])


def _atlas_index(position: NDArray[np.float32]) -> NDArray[np.float32]:
    """Atlas array index (plane, row, column) of MNI positions."""
    origin = np.array(_ATLAS_ORIGIN, np.float32).reshape(3, *([1] * (position.ndim - 1)))
    return position[::-1] + origin


def atlas_maps(position: NDArray[np.float32], blur_mm: float) -> dict[str, Field]:
    """Tissue probabilities of the atlas at `position` (3, …) in MNI mm, averaged over voxels of `blur_mm`."""
    values = _look_up(_blurred(blur_mm)[0], _atlas_index(position))
    return dict(zip(_MAPS, values, strict=True))


def _look_up(volume: Field, index: NDArray[np.float32]) -> Field:
    """Trilinear interpolation of (plane, row, column, k) at `index` (3, …); k values at once, so each corner is found
    once.
    """
    places = [np.clip(i.ravel(), 0, n - 1.001).astype(np.float32) for i, n in zip(index, volume.shape, strict=False)]
    lows = [p.astype(np.int32) for p in places]
    parts = [p - low for p, low in zip(places, lows, strict=True)]
    _, rows, columns, k = volume.shape
    flat = volume.reshape(-1, k)
    corner = (lows[0] * rows + lows[1]) * columns + lows[2]
    out = np.zeros((corner.size, k), np.float32)
    for a in (0, 1):
        for b in (0, 1):
            for c in (0, 1):
                weight = np.ones_like(parts[0])
                for part, up in zip(parts, (a, b, c), strict=True):
                    weight *= part if up else 1 - part
                out += weight[:, None] * flat.take(corner + ((a * rows + b) * columns + c), 0)
    return np.ascontiguousarray(out.T).reshape(k, *index.shape[1:])


def ellipsoid_maps(position: NDArray[np.float32], blur_mm: float) -> dict[str, Field]:
    """Give the same maps as `atlas_maps` from nested ellipsoids: brain, folded cortex, two ventricles."""
    x, y, z = (position[i] - np.float32(_ATLAS_CENTER[i]) for i in range(3))
    radius = np.sqrt((x / 68) ** 2 + (y / 86) ** 2 + (z / 66) ** 2)
    soft = np.float32(max(blur_mm, 2.0) / 70)

    def inside(level: Field) -> Field:
        return np.asarray(np.clip(0.5 - level / soft, 0, 1), np.float32)

    folds = 0.05 * np.sin(x / 9) * np.sin(y / 10) * np.sin(z / 9 + 1)
    brain = inside(radius - 1)
    cortex_outer = inside(radius - 0.95)
    white_outer = inside(radius - 0.74 + folds)
    ventricles = np.zeros_like(radius)
    for side in (-1, 1):
        ventricles += inside(
            np.sqrt(((x - side * 13) / 12) ** 2 + ((y - 5) / 34) ** 2 + ((z - 5) / 17) ** 2) * 0.3 - 0.3
        )
    ventricles = np.clip(ventricles, 0, 1)
    white = white_outer * (1 - ventricles)
    grey = np.clip(cortex_outer - white_outer, 0, 1) * (1 - ventricles)
    return {
        "wm": white,
        "gm": grey,
        "csf": np.clip(brain - white - grey, 0, 1),
        "ventricles": ventricles,
        "brain": brain,
    }


def ventricle_pull(position: NDArray[np.float32], analytic: bool) -> NDArray[np.float32]:
    """Unit-sized vectors (3, …) toward the ventricles, 0 far from them: following them enlarges the ventricles."""
    if analytic:
        away = position - _ATLAS_CENTER.astype(np.float32).reshape(3, 1, 1, 1)
        distance = np.linalg.norm(away, axis=0) + 1
        return np.asarray(-away / distance * np.exp(-0.5 * ((distance - 28) / 14) ** 2), np.float32)
    index = _atlas_index(position)
    return _look_up(_atlas().pull, index)


@dataclass(frozen=True)
class Mass:
    """Where a tumour will push: sphere of `radius_mm` around `center` (undeformed MNI mm), its rim moved by
    `push_mm`.
    """

    center: tuple[float, float, float]
    radius_mm: float
    push_mm: float
    reach_mm: float = 22.0


class Shape:
    """One subject's deformation: from positions in the file to positions in the atlas.

    A small affine map, two smooth random fields, wider or narrower ventricles, and, once a tumour is placed, its mass
    effect. All are fixed when the object is made; tissue at the brain's surface is not moved by the tumour (the skull
    holds it).
    """

    def __init__(self, frame: Frame, rng: np.random.Generator, analytic: bool) -> None:
        self.frame = frame
        self.analytic = analytic
        self.step = max(1, round(_LATTICE_MM / frame.unit_mm))
        self.position = make_positions(frame, self.step)
        spacing = self.step * frame.unit_mm
        angles = rng.normal(0, 0.03, 3)
        scale = 1 / np.clip(rng.normal(0.96, 0.03) * rng.normal(1, 0.025, 3), 0.87, 1.03)
        matrix = _rotation(angles) @ np.diag(scale) @ (np.eye(3) + np.triu(rng.normal(0, 0.02, (3, 3)), 1))
        center = _ATLAS_CENTER.astype(np.float32).reshape(3, 1, 1, 1)
        centered = self.position - center
        moved = np.tensordot(matrix.astype(np.float32), centered, 1) + center
        for sigma_mm, size_mm in ((22.0, 3.0), (7.0, 1.1)):
            moved += np.stack([size_mm * smooth_noise(rng, moved.shape[1:], sigma_mm / spacing) for _ in range(3)])
        moved += np.float32(rng.uniform(-2.0, 5.0)) * ventricle_pull(moved, analytic)
        self.moved = moved.astype(np.float32)
        maps = self._maps(self.moved, frame.unit_mm)
        self.lattice_maps = maps
        self.lattice_depth = spacing * ndimage.distance_transform_edt(np.pad(maps["brain"] > 0.5, 1))[1:-1, 1:-1, 1:-1]

    def _maps(self, position: NDArray[np.float32], blur_mm: float) -> dict[str, Field]:
        return (ellipsoid_maps if self.analytic else atlas_maps)(position, blur_mm)

    def _brain(self, position: NDArray[np.float32]) -> Field:
        if self.analytic:
            return ellipsoid_maps(position, self.frame.unit_mm)["brain"]
        out: Field = ndimage.map_coordinates(
            _blurred(self.frame.unit_mm)[1], _atlas_index(position), order=1, mode="nearest"
        )
        return out

    def add_mass(self, mass: Mass) -> None:
        """Push tissue radially away from a tumour that is about to be drawn."""
        away = self.position - np.array(mass.center, np.float32).reshape(3, 1, 1, 1)
        distance = np.linalg.norm(away, axis=0) + 1e-3
        outside = mass.push_mm * np.exp(-np.clip(distance - mass.radius_mm, 0, None) / mass.reach_mm)
        pushed = np.minimum(outside, distance * (mass.push_mm / mass.radius_mm))
        held = np.clip(self.lattice_depth / 18.0, 0, 1)
        self.moved -= (away / distance * (pushed * held)).astype(np.float32)

    def render(self, rng: np.random.Generator) -> "Anatomy":
        """Look the atlas up at full resolution and make folds and tissue borders the subject's own."""
        frame, step = self.frame, self.step
        brain = np.argwhere(self.lattice_maps["brain"] > 0.02)
        low = np.maximum(brain.min(0) - 1, 0) * step
        high = np.minimum((brain.max(0) + 2) * step, frame.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        shape = tuple(int(b - a) for a, b in zip(low, high, strict=True))
        start = tuple(float(a) for a in low)
        moved = np.stack([enlarge(m, step, shape, start) for m in self.moved])
        rim = self._brain(moved)
        mask = _largest(rim + 0.07 * smooth_noise(rng, shape, 6.0 / frame.unit_mm) > 0.62)
        inside = moved[:, mask]
        maps = self._maps(inside, frame.unit_mm)
        noise = [smooth_noise(rng, shape, s / frame.unit_mm)[mask] for s in (2.2, 2.2, 5.0)]
        flat = _sharpen(maps, inside, noise, rng)
        fractions = {name: _fill(mask, value) for name, value in flat.items()}
        ventricles = np.minimum(_fill(mask, maps["ventricles"] * 1.2), fractions["csf"])
        position = np.stack([enlarge(p, step, shape, start) for p in self.position])
        return Anatomy(frame, (box[0], box[1], box[2]), mask, fractions, ventricles, rim, position)


def _sharpen(
    maps: dict[str, Field], position: NDArray[np.float32], noise: list[Field], rng: np.random.Generator
) -> dict[str, Field]:
    """Turn the atlas's averaged probabilities into one brain.

    The atlas is the mean of 152 brains, so its cortex is blurred. Where it is undecided, correlated noise decides, and
    a power sharpens the result: folds become crisp and differ between subjects. Deep grey matter keeps its in-between
    values, which are real (thalamus and pallidum hold many myelinated fibres).
    """
    x, y, z = position
    deep = np.clip(2.2 - 1.6 * np.sqrt((x / 34) ** 2 + ((y + 8) / 36) ** 2 + ((z - 4) / 22) ** 2), 0, 1)
    stem = np.clip(3 - 2 * np.sqrt((x / 24) ** 2 + ((y + 28) / 22) ** 2 + ((z + 30) / 30) ** 2), 0, 1)
    soft = np.maximum(deep, stem)
    power = np.float32(2.6) - np.float32(1.5) * soft
    size = 1 - np.float32(0.75) * soft
    wide = np.float32(rng.uniform(0.1, 0.9))  # how wide the sulci are: age
    tiny = np.float32(2e-3)
    log_white = power * np.log(maps["wm"] + tiny) + size * (1.1 * noise[0] + 0.5 * noise[2])
    log_grey = power * np.log(maps["gm"] + tiny)
    log_fluid = power * np.log(maps["csf"] + tiny) + size * (1.1 * noise[1] + wide) + wide
    # Skull stripping leaves fluid on the surface in some places only.
    log_fluid -= 9 * np.clip(0.92 - maps["brain"], 0, 1) * np.clip(1 + noise[2], 0, 3)
    top = np.maximum(np.maximum(log_white, log_grey), log_fluid)
    white, grey, fluid = (np.exp(v - top) for v in (log_white, log_grey, log_fluid))
    total = white + grey + fluid
    white, grey, fluid = white / total, grey / total, fluid / total
    return {
        "wm": white.astype(np.float32),
        "gm": (grey * (1 - deep)).astype(np.float32),
        "dgm": (grey * deep).astype(np.float32),
        "csf": fluid.astype(np.float32),
    }


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z, in radians."""
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        out = turn @ out
    return out


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest connected part, holes filled, without spikes one voxel thick."""
    mask = ndimage.binary_opening(mask)
    parts, n = ndimage.label(mask)
    if n > 1:
        mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


def _fill(mask: NDArray[np.bool_], values: Field) -> Field:
    """`values` of the masked voxels as an array of the mask's shape, 0 elsewhere."""
    out = np.zeros(mask.shape, np.float32)
    out[mask] = values
    return out
