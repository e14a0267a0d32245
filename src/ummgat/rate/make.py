"""Images for a blinded reading: real and generated ones, treated alike, so that nothing but content tells them
apart.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.completion.fill import Request, fill
from ummgat.core.crop import crop, crop_window
from ummgat.core.domain import Domain
from ummgat.core.png import as_png
from ummgat.core.study import Study
from ummgat.model.weights import TrainedModel

Sources = Literal["best", "each", "fuse"]

KEY_COLUMNS = ("page", "image", "truth", "subject", "center", "sequence", "source", "plane")

SIDE = 400
"""Pixels of an image on the page, roughly: the crop is enlarged by the nearest whole factor."""

MIN_BRAIN = 0.35
"""A plane may be shown if it has at least this share of the subject's largest plane."""

Image = NDArray[np.uint8]


class Slot(NamedTuple):
    """An image to be made."""

    subject: str
    sequence: str
    is_real: bool
    plane: int


@dataclass(frozen=True)
class Selection:
    """Images in the order of the page, and the key to them."""

    images: list[bytes]
    """PNG, 8-bit grey, all of one size, nothing but pixels inside."""
    key: list[dict[str, str]]
    """A row of `KEY_COLUMNS` per image."""

    @property
    def page(self) -> str:
        """Name of this very selection: a hash of its pixels, which says nothing of the key."""
        return page_name(self.images)


def page_name(images: Sequence[bytes]) -> str:
    """First 12 hex digits of a SHA-256 over the images in order."""
    return hashlib.sha256(b"".join(images)).hexdigest()[:12]


def plan(
    choices: Mapping[str, Sequence[str]],
    centers: Mapping[str, str],
    planes: Mapping[str, Sequence[int]],
    n: int,
    seed: int,
) -> list[Slot]:
    """Choose subjects, sequences and planes.

    Half of the images is real, and so is half of those of each sequence and center: neither must hint at the answer.
    Sequences occur equally often, and so do, as far as they have the sequence, centers and subjects. No plane of a
    subject is shown twice, neither as another sequence nor once real and once generated: whoever sees the same anatomy
    twice can compare.

    Parameters
    ----------
    choices : mapping of subject → sequences
        That are both acquired and can be generated.
    centers : mapping of subject → center
    planes : mapping of subject → planes
        That may be shown.
    n : int
        Even.
    seed : int

    Returns
    -------
    list of Slot
        Shuffled.

    Raises
    ------
    ValueError
        If n is odd or not positive, nothing can be chosen from, or a subject has too few planes.
    """
    if n < 2 or n % 2:
        raise ValueError(
            f"Number of images cannot be halved: --n. Found {n}; expected an even number from 2. Choose another."
        )
    rng = np.random.default_rng(seed)
    sequences = list(dict.fromkeys(q for subject in sorted(choices) for q in choices[subject]))
    if not sequences:
        raise ValueError(
            f"No image can be both shown and generated: {len(choices)} subjects. Found no sequence that is acquired "
            f"and that the model can make from another one of the same subject; expected at least one. Choose other "
            f"subjects, or another model."
        )
    rng.shuffle(sequences)
    used: dict[tuple[str, bool], int] = {}
    shown: dict[tuple[str, str], int] = {}
    drawn: list[tuple[str, str, bool]] = []
    for i in range(n // 2):
        sequence = sequences[i % len(sequences)]
        having = [s for s in sorted(choices) if sequence in choices[s]]
        center = min(
            dict.fromkeys(centers[s] for s in having), key=lambda c: (shown.get((sequence, c), 0), float(rng.random()))
        )
        shown[sequence, center] = shown.get((sequence, center), 0) + 1
        able = [s for s in having if centers[s] == center]
        first = bool(rng.integers(2))
        taken = ""
        for real in (first, not first):
            others = [s for s in able if s != taken] or able
            load = [(used.get((s, real), 0), used.get((s, not real), 0), float(rng.random()), s) for s in others]
            taken = min(load)[3]
            used[taken, real] = used.get((taken, real), 0) + 1
            drawn.append((taken, sequence, real))
    slots = []
    for subject in sorted(choices):
        own = [d for d in drawn if d[0] == subject]
        slots += [
            Slot(*d[:3], plane) for d, plane in zip(own, _spread(rng, subject, planes[subject], len(own)), strict=True)
        ]
    order = rng.permutation(len(slots))
    return [slots[i] for i in order]


def _spread(rng: np.random.Generator, subject: str, planes: Sequence[int], n: int) -> list[int]:
    """`n` different planes, as far apart as they go, in random order."""
    if n > len(planes):
        raise ValueError(
            f"Subject has too few planes: {subject}. Found {len(planes)} with enough brain; expected {n}, since none "
            f"is shown twice. Lower --n, or add subjects."
        )
    at = ((np.arange(n) + 0.5) * len(planes) / max(n, 1)).astype(int)
    chosen = [planes[i] for i in at]
    rng.shuffle(chosen)
    return chosen


def select_images(
    model: TrainedModel,
    studies: Sequence[Study],
    n: int,
    seed: int,
    sources: Sources = "best",
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Make the images of a page.

    Generated ones are made by the path that completes studies, from whole volumes of the subject's other sequences.
    Real and generated ones are then treated by the same lines: the subject's brain common to all of its sequences, the
    same crop for all images of the page, the same grey levels (0–255 as stored), the same enlargement.

    Parameters
    ----------
    model : TrainedModel
    studies : sequence of Study
    n, seed : int
        See `plan`.
    sources : "best", "each" or "fuse"
        What a generated image is made from: the first source by the model's criteria, each other sequence in turn, or
        all of them combined.
    progress : callable, optional
        (images finished, images in all).

    Raises
    ------
    ValueError
        See `plan`.
    """
    by_subject = {study.subject: study for study in studies}
    known = {
        s.subject: [q for q in s.acquired if Domain(s.center, q) in model.table]
        if s.center in model.table.centers
        else []
        for s in studies
    }
    choices = {subject: own if len(own) > 1 else [] for subject, own in known.items()}
    brains = {s.subject: _common_brain(s, known[s.subject]) for s in studies if choices[s.subject]}
    planes = {subject: _shown_planes(brain) for subject, brain in brains.items()}
    slots = plan({s: choices[s] for s in brains}, {s.subject: s.center for s in studies}, planes, n, seed)
    size = _window_size([brains[slot.subject] for slot in slots])
    factor = max(1, round(SIDE / max(size)))
    turns: dict[tuple[str, str], int] = {}
    made: dict[tuple[str, str, str], tuple[Image, str]] = {}
    images, key = [], []
    for i, slot in enumerate(slots):
        study = by_subject[slot.subject]
        volume, source = np.asarray(study.volume(slot.sequence)), ""
        if not slot.is_real:
            others = [q for q in choices[slot.subject] if q != slot.sequence]
            turn = turns.get((slot.subject, slot.sequence), 0)
            turns[slot.subject, slot.sequence] = turn + 1
            asked = others[turn % len(others)] if sources == "each" else sources
            name = (slot.subject, slot.sequence, asked)
            if name not in made:
                made[name] = _generated(model, study, others, slot.sequence, asked)
            volume, source = made[name]
        brain = brains[slot.subject]
        shown = cut(volume[slot.plane], brain[slot.plane], crop_window(brain, *size), size)
        images.append(as_png(enlarged(shown, factor)))
        key.append(
            {
                "image": str(i + 1),
                "truth": "real" if slot.is_real else "generated",
                "subject": slot.subject,
                "center": study.center,
                "sequence": slot.sequence,
                "source": source,
                "plane": str(slot.plane),
            }
        )
        if progress is not None:
            progress(i + 1, len(slots))
    page = page_name(images)
    return Selection(images, [{"page": page} | row for row in key])


def _generated(model: TrainedModel, study: Study, others: Sequence[str], target: str, asked: str) -> tuple[Image, str]:
    """A generated volume and what it was made from."""
    request = Request(
        targets=(target,),
        sources=None if asked in ("best", "fuse") else (asked,),
        fuse=asked == "fuse",
        with_reliability=False,
    )
    (image,) = fill(model, {q: np.array(study.volume(q)) for q in others}, study.center, request)
    return image.volume, "+".join(image.provenance["sources"])


def _common_brain(study: Study, sequences: Sequence[str]) -> NDArray[np.bool_]:
    """Voxels that are brain in every sequence: an image's outline must not tell what it was made from."""
    return np.asarray(np.logical_and.reduce([np.asarray(study.volume(q)) > 0 for q in sequences]))


def _shown_planes(brain: NDArray[np.bool_]) -> list[int]:
    area = brain.sum((1, 2))
    return [int(i) for i in np.flatnonzero((area > 0) & (area >= MIN_BRAIN * area.max()))]


def _window_size(brains: Sequence[NDArray[np.bool_]]) -> tuple[int, int]:
    """Rows and columns that hold the largest brain."""
    boxes = [[_extent(brain, axis) for axis in (1, 2)] for brain in brains]
    rows, columns = (max(box[axis][1] - box[axis][0] for box in boxes) for axis in (0, 1))
    return int(rows), int(columns)


def _extent(brain: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """First and one past the last occupied index."""
    occupied = np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis)))
    return int(occupied[0]), int(occupied[-1]) + 1


def cut(plane: Image, brain: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> Image:
    """A plane (row, column) as it is shown: background 0 outside `brain`, cropped, front of the head at the top."""
    return np.asarray(crop(np.where(brain, plane, 0).astype(np.uint8), corner, *size)[::-1])


def enlarged(image: Image, factor: int) -> Image:
    """Enlarge by a whole factor, linearly between pixel centers."""
    if factor == 1:
        return image
    grown = ndimage.zoom(image.astype(np.float32), factor, order=1, mode="grid-constant", grid_mode=True)
    return np.asarray(np.clip(np.rint(grown), 0, 255).astype(np.uint8))
