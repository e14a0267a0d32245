"""Training slices: an index of (volume, plane) and balanced batches drawn from it, a pure function of (seed, step).

No state: the batch of any step can be drawn again, so a resumed run sees exactly what an unbroken one would.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ummgat.config import DataConfig
from ummgat.crop import crop, crop_window
from ummgat.domain import Domain, DomainTable
from ummgat.draw import Draw
from ummgat.study import Study


def to_unit(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0–255 → [-1, 1] float32; background 0 becomes exactly -1."""
    return values.astype(np.float32) / np.float32(127.5) - np.float32(1)


def from_unit(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[-1, 1] → 0–255 uint8; background exactly -1 becomes 0, brain at least 1."""
    scaled = np.clip(np.rint((values + 1) * 127.5), 1, 255)
    return np.where(values > -1, scaled, 0).astype(np.uint8)


class TrainingVolume(NamedTuple):
    """One (study, sequence) with the planes that may train."""

    study: Study
    sequence: str
    domain: int
    planes: NDArray[np.int64]
    """Planes with enough brain."""
    heights: NDArray[np.float64]
    """Of each such plane: 0 at the lowest brain plane, 1 at the highest."""
    has_lesion: NDArray[np.bool_]
    """Of each such plane; all False when nobody annotated the subject."""
    corner: tuple[int, int]
    """First row and column of the training crop; negative where it reaches beyond the image."""


class Batch(NamedTuple):
    """Source and reference slices; a reference belongs to the target domain and to another subject.

    Images are (batch, 1, row, column) float32 in [-1, 1], background -1. Lesions are 0/1 of the same shape, all 0
    where there is none or nobody annotated. Domains are (batch,) int64. Latents are (2, batch, latent_dim) float32.
    """

    x_src: NDArray[np.float32]
    y_src: NDArray[np.int64]
    lesion_src: NDArray[np.float32]
    x_ref: NDArray[np.float32]
    y_trg: NDArray[np.int64]
    lesion_ref: NDArray[np.float32]
    z: NDArray[np.float32]
    origin: tuple[int, int] = (0, 0)
    """Row and column at which the images were cut out of the training crop, see `trimmed`."""
    labels_src: NDArray[np.float32] | None = None
    """Of the annotation of the source, 0 where there is none; None: nobody asked which part of the lesion is which."""
    x_true: NDArray[np.float32] | None = None
    """What the source's own subject shows in the target domain, all background where that is not known. Read for the
    paired schedule alone: no other may see it."""


def trimmed(batch: Batch, unit: int) -> Batch:
    """Cut away rows and columns in which no image of the batch has brain; views.

    The generator gives the same answer either way, since it attends to brain only and is told the origin; the
    arithmetic on background is saved. `unit` keeps its tokens where they were.
    """
    brain = np.asarray(((batch.x_src > -1) | (batch.x_ref > -1)).any((0, 1)))
    box, origin = [], []
    for axis in (0, 1):
        occupied = np.flatnonzero(brain.any(axis=1 - axis))
        start, stop = int(occupied[0]) // unit * unit, -(-int(occupied[-1] + 1) // unit) * unit
        box.append(slice(start, min(stop, brain.shape[axis])))
        origin.append(start)
    names = ("x_src", "lesion_src", "x_ref", "lesion_ref", "labels_src", "x_true")
    images = [name for name in names if getattr(batch, name) is not None]
    cut = {name: getattr(batch, name)[:, :, box[0], box[1]] for name in images}
    return batch._replace(**cut, origin=(origin[0], origin[1]))


def index_volumes(studies: Sequence[Study], draw: Draw, config: DataConfig) -> list[TrainingVolume]:
    """Index every training volume of the draw.

    Raises
    ------
    ValueError
        If a subject of the draw is not in the cohort, lacks a sequence, was prepared at another spacing, or if a
        domain has no plane with enough brain, or only one subject overall.
    """
    by_subject = {study.subject: study for study in studies}
    table = draw.table
    volumes = []
    for subject, sequences in draw.train.items():
        if subject not in by_subject:
            raise ValueError(
                f"Draw names a subject that the cohort lacks. Found {subject}; expected one of "
                f"{len(by_subject)} prepared subjects. Prepare it, or draw again."
            )
        study = by_subject[subject]
        spacing = study.grid.spacing_mm
        if not np.allclose(spacing, config.spacing_mm, atol=1e-3):
            raise ValueError(
                f"Cohort and config disagree on voxel size: {study.folder}. Found {spacing} mm; expected "
                f"{config.spacing_mm} mm. Run `ummgat prepare --spacing {config.spacing_mm}`, or choose another preset."
            )
        lesion = study.lesion()
        for sequence in sequences:
            domain = table.index(Domain(study.center, sequence))
            volumes.append(_index_volume(study, sequence, domain, lesion, config))
    for i, named in enumerate(table):
        if not any(v.domain == i and len(v.planes) for v in volumes):
            raise ValueError(
                f"Domain has no training slice: {named}. Found none with data.min_brain {config.min_brain}; "
                "expected at least one. Lower it, or add subjects."
            )
    volumes = [v for v in volumes if len(v.planes)]
    if len({v.study.subject for v in volumes}) < 2:
        raise ValueError(
            "Too few training subjects. Found 1; expected at least 2, since source and reference must come from "
            "different subjects. Add subjects to the draw."
        )
    return volumes


def selection_volumes(studies: Sequence[Study], table: DomainTable, config: DataConfig) -> list[TrainingVolume]:
    """Volumes of selection subjects that belong to a domain; all of one subject share planes and crop, to be compared."""
    volumes = []
    for study in studies:
        known = [q for q in study.acquired if Domain(study.center, q) in table]
        if known:
            first = _index_volume(study, known[0], 0, study.lesion(), config)
            volumes += [first._replace(sequence=q, domain=table.index(Domain(study.center, q))) for q in known]
    return [v for v in volumes if len(v.planes)]


def _index_volume(
    study: Study, sequence: str, domain: int, lesion: NDArray[np.bool_] | None, config: DataConfig
) -> TrainingVolume:
    """Find the planes that may train, and where to crop them."""
    brain = np.asarray(study.volume(sequence)) > 0
    area = brain.sum((1, 2))
    occupied = np.flatnonzero(area)
    first, last = int(occupied[0]), int(occupied[-1])
    corner = crop_window(brain, *config.crop)
    planes = np.flatnonzero(area >= config.min_brain * config.crop[0] * config.crop[1])
    has_lesion = np.zeros(len(planes), bool) if lesion is None else np.asarray(lesion[planes].any((1, 2)))
    heights = (planes - first) / max(last - first, 1)
    return TrainingVolume(study, sequence, domain, planes, heights, has_lesion, corner)


class SliceSampler:
    """Draws balanced batches from training volumes.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
    n_domains : int
    config : DataConfig
    seed : int
    """

    def __init__(self, volumes: Sequence[TrainingVolume], n_domains: int, config: DataConfig, seed: int) -> None:
        self.by_domain = [[v for v in volumes if v.domain == i] for i in range(n_domains)]
        self.config = config
        self.seed = seed

    def batch(self, step: int, size: int, latent_dim: int, paired: bool = False) -> Batch:
        """Draw the batch of `step`: domains uniform, then subject uniform, then plane.

        Source and target domain are independent. In `lesion_share` of the pairs both slices show a lesion where
        their volumes have one. `paired` reads true images beside the very same slices.
        """
        rng = np.random.default_rng([self.seed, step])
        n = len(self.by_domain)
        y_src, y_trg = rng.integers(n, size=size), rng.integers(n, size=size)
        drawn = [self._pair(rng, int(a), int(b)) for a, b in zip(y_src, y_trg, strict=True)]
        y_src = np.array([source.volume.domain for source, _ in drawn])  # differs where a source had to be swapped
        images = [(*self._read(source), *self._read(reference)) for source, reference in drawn]
        x_src, labels_src, x_ref, labels_ref = (np.stack(column)[:, None] for column in zip(*images, strict=True))
        lesion_src, lesion_ref = ((labels > 0).astype(np.float32) for labels in (labels_src, labels_ref))
        z = rng.standard_normal((2, size, latent_dim), dtype=np.float32)
        x_true = None
        if paired:
            x_true = np.stack(
                [self._true(source, int(y), x) for (source, _), y, x in zip(drawn, y_trg, x_src[:, 0], strict=True)]
            )[:, None]
        return Batch(x_src, y_src, lesion_src, x_ref, y_trg, lesion_ref, z, labels_src=labels_src, x_true=x_true)

    def _pair(self, rng: np.random.Generator, y_src: int, y_trg: int) -> tuple["_Drawn", "_Drawn"]:
        want_lesion = bool(rng.random() < self.config.lesion_share)
        source = self.by_domain[y_src][rng.integers(len(self.by_domain[y_src]))]
        others = [v for v in self.by_domain[y_trg] if v.study.subject != source.study.subject]
        if not others:
            # The only volume of the target domain is the source's own subject: take another source instead.
            source, others = self._swap_source(rng, y_trg)
        reference = others[rng.integers(len(others))]
        at = self._plane(rng, source, want_lesion, None)
        near = self._plane(rng, reference, want_lesion, float(source.heights[at]))
        flips = [bool(rng.random() < self.config.flip) for _ in range(2)]
        first = _Drawn(source, int(source.planes[at]), flips[0])
        return first, _Drawn(reference, int(reference.planes[near]), flips[1])

    def _swap_source(self, rng: np.random.Generator, y_trg: int) -> tuple[TrainingVolume, list[TrainingVolume]]:
        targets = self.by_domain[y_trg]
        own = {v.study.subject for v in targets}
        candidates = [v for volumes in self.by_domain for v in volumes if v.study.subject not in own]
        return candidates[rng.integers(len(candidates))], targets

    def _plane(self, rng: np.random.Generator, volume: TrainingVolume, want_lesion: bool, height: float | None) -> int:
        """Position in `volume.planes` of a drawn plane, near `height` if given."""
        eligible = (
            np.flatnonzero(volume.has_lesion)
            if want_lesion and volume.has_lesion.any()
            else np.arange(len(volume.planes))
        )
        if height is not None:
            distance = np.abs(volume.heights[eligible] - height)
            near = eligible[distance <= self.config.height_window / 2]
            eligible = near if len(near) else eligible[[int(distance.argmin())]]
        return int(eligible[rng.integers(len(eligible))])

    def _read(self, drawn: "_Drawn") -> tuple[NDArray[np.float32], ...]:
        volume = drawn.volume
        x = self._image(drawn, volume.sequence)
        labels = volume.study.labels()
        if labels is None:
            return x, np.zeros_like(x)
        own = crop(labels[drawn.plane], volume.corner, *self.config.crop)[:, drawn.columns]
        return x, np.ascontiguousarray(own).astype(np.float32)

    def _image(self, drawn: "_Drawn", sequence: str) -> NDArray[np.float32]:
        image = crop(drawn.volume.study.volume(sequence)[drawn.plane], drawn.volume.corner, *self.config.crop)
        return to_unit(np.ascontiguousarray(image[:, drawn.columns]))

    def _true(self, source: "_Drawn", domain: int, like: NDArray[np.float32]) -> NDArray[np.float32]:
        """The drawn plane of the source's subject in another domain; background where the draw has no such volume."""
        subject = source.volume.study.subject
        own = [v for v in self.by_domain[domain] if v.study.subject == subject]
        return self._image(source, own[0].sequence) if own else np.full_like(like, -1.0)


class _Drawn(NamedTuple):
    """A slice as it enters a batch."""

    volume: TrainingVolume
    plane: int
    flipped: bool

    @property
    def columns(self) -> slice:
        """Left to right, or mirrored."""
        return slice(None, None, -1 if self.flipped else 1)
