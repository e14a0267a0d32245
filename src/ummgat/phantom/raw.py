"""The phantom as a scanner hands it over: a whole head, each sequence on a grid of its own, in thick oblique slices.

The brain is the one of `subject`; around it lie fluid, skull, scalp, a neck, and an oil capsule on the right temple, as
is taped there to tell right from left. The patient moves between sequences by a known rigid transform.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ummgat.core.domain import SEQUENCES, check_sequence
from ummgat.core.volume import Array, Grid
from ummgat.phantom.noise import Field, enlarge, smooth_noise
from ummgat.phantom.scanner import Scanner
from ummgat.phantom.signal import TISSUE_TABLE, Tissue, signal
from ummgat.phantom.subject import Body, ideal_image

_MARGIN_MM = 30.0  # around the brain: skull, scalp and some air
_BELOW_MM = 45.0  # the neck
_FAT = Tissue(0.90, 300, 70, 30, 0.05, 0.0, 2)
# Typical values at 3 T, not measured: cortical bone gives next to nothing, marrow is part fat, muscle as in Stanisz
# 2005.
_HEAD = {
    1: TISSUE_TABLE["csf"],
    2: Tissue(0.06, 400, 2, 0.8, 0.1, 0.0, 1),
    3: Tissue(0.55, 450, 60, 20, 0.1, 0.0, 4),
    4: _FAT,
    5: Tissue(0.80, 1410, 50, 30, 1.4, 0.2, 10),
}
_PLANES = {
    # World axes (x, y, z) along which column, row and plane of a file count up, as scanners store them.
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
}


@dataclass(frozen=True)
class Acquisition:
    """How one sequence is cut: all sizes in mm."""

    plane: str
    """axial, coronal or sagittal."""
    in_plane_mm: float
    thickness_mm: float
    gap_mm: float = 0.0
    """Tissue between two slices that neither shows."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """From voxel to voxel along column, row and plane."""
        return self.in_plane_mm, self.in_plane_mm, self.thickness_mm + self.gap_mm


ACQUISITIONS: Mapping[str, Acquisition] = {
    "t1": Acquisition("axial", 0.9, 4.0, 1.0),
    "t1ce": Acquisition("sagittal", 1.0, 1.0),
    "t2": Acquisition("coronal", 0.7, 4.5, 0.5),
    "flair": Acquisition("sagittal", 0.9, 4.0, 1.0),
    "swi": Acquisition("axial", 0.8, 2.0),
    "dwi": Acquisition("axial", 1.8, 4.0, 1.0),
    "asl": Acquisition("axial", 3.0, 5.0),
    "hardi": Acquisition("axial", 2.0, 2.0),
}
"""A usual clinical protocol: one volume of 1 mm, the rest thick."""


@dataclass(frozen=True)
class Pose:
    """How far a patient may be from where the anatomy is, and how far the scanner's planes may be tilted."""

    rotation_deg: float = 5.0
    """Largest rotation of a sequence against the anatomy."""
    shift_mm: float = 8.0
    """Largest shift of the brain's middle."""
    tilt_deg: float = 10.0
    """Largest tilt of the planes; the header says it, so it is no error to be found."""


@dataclass(frozen=True)
class RawImage:
    """One sequence as scanned."""

    data: NDArray[np.int16]
    """(x, y, z), at least 0; the air around the head is noise, not 0."""
    grid: Grid
    moved: NDArray[np.float64]
    """(4, 4), rigid: from the anatomy's world (mm, RAS+, that of truth/) to the world of this file."""


@dataclass(frozen=True)
class Head:
    """A body with everything around its brain, on a canvas of the frame's spacing."""

    body: Body
    tissue: NDArray[np.uint8]
    """(plane, row, column): 0 air or brain, else a number of `_HEAD`."""
    brain: NDArray[np.bool_]
    grid: Grid
    """Of the canvas, NIfTI order."""

    @property
    def center(self) -> NDArray[np.float64]:
        """Middle of the brain, world mm."""
        voxel = np.array([float(np.mean(places)) for places in np.nonzero(self.brain)])[::-1]
        return np.asarray(self.grid.matrix[:3, :3] @ voxel + self.grid.matrix[:3, 3])


def make_head(body: Body, seed: int) -> Head:
    """Put fluid, skull, scalp, neck and capsule around the brain of `body`.

    Parameters
    ----------
    body : Body
        Its frame's spacing is the canvas's.
    seed : int
        Of the thickness of the layers.
    """
    spacing = body.frame.grid.spacing_mm[0]
    margin, below = math.ceil(_MARGIN_MM / spacing), math.ceil(_BELOW_MM / spacing)
    pads = ((below, margin), (margin, margin), (margin, margin))
    brain = np.pad(body.mask, pads)
    start = [s.start - low for s, (low, _) in zip(body.box, pads, strict=True)]  # of the canvas in the frame
    affine = body.frame.grid.matrix
    affine[:3, 3] += affine[:3, :3] @ np.array(start[::-1], float)
    rng = np.random.default_rng([seed, 83])
    step = max(1, int(2 / spacing))
    coarse = ndimage.distance_transform_edt(~brain[::step, ::step, ::step]).astype(np.float32) * (step * spacing)
    away = enlarge(coarse, step, brain.shape)
    layer = 1 + 0.15 * smooth_noise(rng, brain.shape, 25 / spacing)
    tissue = np.zeros(brain.shape, np.uint8)
    # Outermost first: each layer overwrites what lies within.
    for number, reach_mm in ((4, 13.0), (2, 8.5), (3, 6.5), (2, 4.5), (1, 2.5)):
        tissue[away < reach_mm * layer] = number
    plane, row, column = np.ogrid[tuple(slice(0, n) for n in brain.shape)]
    middle = [(low + n / 2) for (low, _), n in zip(pads, body.mask.shape, strict=True)]
    neck = ((row - middle[1] - 15 / spacing) / (52 / spacing)) ** 2 + ((column - middle[2]) / (50 / spacing)) ** 2 < 1
    tissue[neck & (plane < below + 25 / spacing) & (away > 8 * layer)] = 5
    right = middle[2] - (body.mask.shape[2] / 2 + 15 / spacing)  # columns count up to the patient's left
    capsule = (plane - middle[0]) ** 2 + (row - middle[1]) ** 2 + (column - right) ** 2 < (7 / spacing) ** 2
    tissue[capsule & ~brain] = 4
    tissue[brain] = 0
    x, y, z = reversed(brain.shape)
    return Head(body, tissue, brain, Grid.of((x, y, z), affine))


def scan_raw(
    head: Head,
    scanner: Scanner,
    sequence: str,
    seed: int,
    acquisition: Acquisition | None = None,
    pose: Pose | None = None,
    bias: bool = True,
) -> RawImage:
    """Image `head` in one sequence as a clinical scanner would.

    Parameters
    ----------
    head : Head
    scanner : Scanner
    sequence : str
    seed : int
        Of movement, tilt, coil shading and noise; the anatomy does not depend on it.
    acquisition : Acquisition, optional
        Default: that of `ACQUISITIONS`.
    pose : Pose, optional
        Default: what a patient moves within one exam.
    bias : bool
        Coil shading.

    Returns
    -------
    RawImage
    """
    cut = ACQUISITIONS[check_sequence(sequence, "raw phantom")] if acquisition is None else acquisition
    rng = np.random.default_rng([seed, SEQUENCES.index(sequence), scanner.index, 89])
    reach = Pose() if pose is None else pose
    moved = random_rigid(rng, reach.rotation_deg, reach.shift_mm, head.center)
    image = _intensities(head, scanner, sequence)
    mean = float(image[head.brain].mean())
    if bias:
        image = image * np.exp(1.5 * scanner.bias * smooth_noise(rng, image.shape, 45 / head.grid.spacing_mm[0]))
    grid = _field_of_view(head, cut, moved, rng, reach.tilt_deg)
    sampled = _slabs(image, head.grid, grid, moved, cut)
    sigma = mean / scanner.snr
    noisy = np.hypot(sampled + rng.normal(0, sigma, sampled.shape), rng.normal(0, sigma, sampled.shape))
    scale = 600 * np.exp(rng.normal(0, 0.35)) / mean
    return RawImage(np.clip(np.rint(noisy * scale), 0, 32000).astype(np.int16), grid, moved)


def random_rigid(rng: np.random.Generator, rotation_deg: float, shift_mm: float, center: Array) -> NDArray[np.float64]:
    """Draw a rigid (4, 4) transform: a turn of at most `rotation_deg` about any axis through `center`, then a shift of
    at most `shift_mm`.
    """
    axis, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(np.deg2rad(rng.uniform(0, rotation_deg)) * axis).as_matrix()
    out[:3, 3] = center - out[:3, :3] @ center + rng.uniform(0, shift_mm) * way
    return out


def _intensities(head: Head, scanner: Scanner, sequence: str) -> Field:
    """Noiseless image on the canvas."""
    protocol = scanner.protocol(sequence)
    table = np.array([0.0, *(signal(_HEAD[number], protocol) for number in sorted(_HEAD))], np.float32)
    image: Field = table[head.tissue]
    image[head.brain] = ideal_image(head.body, protocol)
    return image


def _field_of_view(
    head: Head, cut: Acquisition, moved: NDArray[np.float64], rng: np.random.Generator, tilt_deg: float
) -> Grid:
    """Grid that holds the moved head, its planes tilted, with a little more room than needed."""
    axes = np.array(_PLANES[cut.plane], float).T
    tilt = random_rigid(rng, tilt_deg, 0.0, np.zeros(3))[:3, :3]
    axes = tilt @ axes
    inside = np.argwhere(ndimage.binary_dilation(head.brain)[::3, ::3, ::3])[:, ::-1] * 3
    world = (moved @ head.grid.matrix @ np.column_stack([inside, np.ones(len(inside))]).T)[:3]
    along = axes.T @ world
    spacing = np.array(cut.spacing_mm)
    room = 24.0 + rng.uniform(0, 8, 3)  # scalp, capsule, some air
    low, high = along.min(1) - room, along.max(1) + room
    shape = np.ceil((high - low) / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ low
    return Grid.of(tuple(int(n) for n in shape), affine)


def _slabs(image: Field, canvas: Grid, grid: Grid, moved: NDArray[np.float64], cut: Acquisition) -> Field:
    """Mean of the image over the thickness of each voxel's slice, without its gap."""
    back = np.linalg.inv(canvas.matrix) @ np.linalg.inv(moved) @ grid.matrix
    count = max(1, math.ceil(cut.thickness_mm / max(canvas.spacing_mm)))
    share = cut.thickness_mm / cut.spacing_mm[2]
    total = np.zeros(grid.shape, np.float32)
    flip = np.eye(4)[[2, 1, 0, 3]]  # (x, y, z) to (plane, row, column)
    for k in range(count):
        step = np.eye(4)
        step[2, 3] = ((k + 0.5) / count - 0.5) * share
        matrix = flip @ back @ step
        total += ndimage.affine_transform(
            image, matrix[:3, :3], matrix[:3, 3], grid.shape, np.float32, order=1, mode="constant"
        )
    return total / np.float32(count)
