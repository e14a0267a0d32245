"""Training slices: an index of (volume, plane) and balanced batches drawn from it, a pure function of (seed, step).

No state: the batch of any step can be drawn again, so a resumed run sees exactly what an unbroken one would.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ummgat.core.config import DataConfig
from ummgat.core.crop import crop, crop_window
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.draw import Draw
from ummgat.core.study import Study
from ummgat.model.masked import to_unit
from ummgat.train.augment import PLAIN, draw_move, draw_tone, moved, moved_labels, shaded, toned

if TYPE_CHECKING:  # training from a packed cohort needs no registration library
    from ummgat.model.atlas import Brought


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
    """Of the annotation of the source: 0 is healthy, -1 in a slice that nobody annotated; None: nobody asked which part
    of the lesion is which."""
    labels_ref: NDArray[np.float32] | None = None
    x_true: NDArray[np.float32] | None = None
    """What the source's own subject shows in the target domain, all background where that is not known. Read for the
    schedules `paired` and `mixed` alone: no other may see it."""
    x_clean: NDArray[np.float32] | None = None
    """The source as it was scanned, where `x_src` is augmented."""
    x_tone: NDArray[np.float32] | None = None
    """The source in another tone, and `x_same`: another plane of its volume in that tone."""
    x_same: NDArray[np.float32] | None = None
    near_src: NDArray[np.float32] | None = None
    """(batch, 2, row, column): planes below and above the source, [0, 2] above background, 0 where there is none."""
    atlas_src: NDArray[np.float32] | None = None
    """(batch, 3, row, column): what the atlas shows at the source, [0, 2]: in its own domain, in the target's, and the
    target's spread between subjects. 0 where not known. The source's subject has no part in it."""
    atlas_ref: NDArray[np.float32] | None = None
    """The same at the reference: in the target's domain, in the source's, and the source's spread."""
    noise: NDArray[np.float32] | None = None
    """Like x_src: standard normal numbers for the losses, and `chances`: (batch, 4), uniform in [0, 1]."""
    chances: NDArray[np.float32] | None = None


def trimmed(batch: Batch, unit: int) -> Batch:
    """Cut away rows and columns in which no image of the batch has brain; views.

    The generator gives the same answer either way, since it attends to brain only and is told the origin; the
    arithmetic on background is saved. `unit` keeps its tokens where they were.
    """
    shown = [x for x in (batch.x_src, batch.x_ref, batch.x_same) if x is not None]
    brain = np.asarray(np.any([(x > -1).any((0, 1)) for x in shown], axis=0))
    box, origin = [], []
    for axis in (0, 1):
        occupied = np.flatnonzero(brain.any(axis=1 - axis))
        start, stop = int(occupied[0]) // unit * unit, -(-int(occupied[-1] + 1) // unit) * unit
        box.append(slice(start, min(stop, brain.shape[axis])))
        origin.append(start)
    kept = ("y_src", "y_trg", "z", "origin", "chances")
    names = tuple(name for name in batch._fields if name not in kept)
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
    """Volumes of selection subjects that belong to a domain; all of one subject share planes and crop, to be
    compared.
    """
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


class Drawn(NamedTuple):
    """A slice as it enters a batch."""

    volume: TrainingVolume
    plane: int
    flipped: bool

    @property
    def columns(self) -> slice:
        """Left to right, or mirrored."""
        return slice(None, None, -1 if self.flipped else 1)


class SliceSampler:
    """Draws balanced batches from training volumes.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
    n_domains : int
    config : DataConfig
    seed : int
    atlas : mapping of (subject, sequence) → Brought, optional
        Read beside the slices.
    near : bool
        Read the planes above and below a source, too.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        n_domains: int,
        config: DataConfig,
        seed: int,
        atlas: "Mapping[tuple[str, str], Brought] | None" = None,
        near: bool = False,
    ) -> None:
        self.by_domain = [[v for v in volumes if v.domain == i] for i in range(n_domains)]
        self.config = config
        self.seed = seed
        self.atlas = atlas
        self.near = near

    def batch(self, step: int, size: int, latent_dim: int, paired: bool = False) -> Batch:
        """Draw the batch of `step`: domains uniform, then subject uniform, then plane.

        Source and target domain are independent. In `lesion_share` of the pairs both slices show a lesion where
        their volumes have one. `paired` reads true images beside the very same slices.
        """
        rng = np.random.default_rng([self.seed, step])
        drawn, y_src, y_trg = self.draw(rng, size)
        images = [(*self._read(source), *self._read(reference)) for source, reference in drawn]
        x_src, labels_src, x_ref, labels_ref = (np.stack(column)[:, None] for column in zip(*images, strict=True))
        lesion_src, lesion_ref = ((labels > 0).astype(np.float32) for labels in (labels_src, labels_ref))
        z = rng.standard_normal((2, size, latent_dim), dtype=np.float32)
        x_true = None
        if paired:
            x_true = np.stack(
                [self._true(source, int(y), x) for (source, _), y, x in zip(drawn, y_trg, x_src[:, 0], strict=True)]
            )[:, None]
        batch = Batch(x_src, y_src, lesion_src, x_ref, y_trg, lesion_ref, z, labels_src=labels_src, x_true=x_true)
        chance = np.random.default_rng([self.seed, step, 2])
        noise, chances = chance.standard_normal(x_src.shape, np.float32), chance.random((size, 4), np.float32)
        batch = batch._replace(labels_ref=labels_ref, noise=noise, chances=chances)
        batch = self._beside(batch, drawn)
        # A generator of its own: what is drawn does not depend on what is done to it.
        return self._varied(batch, drawn, np.random.default_rng([self.seed, step, 1]))

    def draw(
        self, rng: np.random.Generator, size: int
    ) -> tuple[list[tuple[Drawn, Drawn]], NDArray[np.int64], NDArray[np.int64]]:
        """Which slices: pairs of source and reference, and their domains (size,)."""
        n = len(self.by_domain)
        y_src, y_trg = rng.integers(n, size=size), rng.integers(n, size=size)
        drawn = [self._pair(rng, int(a), int(b)) for a, b in zip(y_src, y_trg, strict=True)]
        # Differs where a source had to be swapped.
        return drawn, np.array([source.volume.domain for source, _ in drawn]), y_trg

    def _beside(self, batch: Batch, drawn: Sequence[tuple[Drawn, Drawn]]) -> Batch:
        """Add neighbouring planes and the atlas."""
        if self.near:
            batch = batch._replace(near_src=np.stack([self.near_planes(source) for source, _ in drawn]))
        if self.atlas is not None:
            pairs = list(zip(batch.y_src, batch.y_trg, strict=True))
            sources = [self._expected(s, int(a), int(b)) for (s, _), (a, b) in zip(drawn, pairs, strict=True)]
            references = [self._expected(r, int(b), int(a)) for (_, r), (a, b) in zip(drawn, pairs, strict=True)]
            batch = batch._replace(atlas_src=np.stack(sources), atlas_ref=np.stack(references))
        return batch

    def near_planes(self, drawn: Drawn) -> NDArray[np.float32]:
        """Planes below and above, [0, 2]; 0 beyond the volume."""
        n = drawn.volume.study.grid.shape[2]
        planes = [drawn._replace(plane=drawn.plane + step) for step in (-1, 1)]
        like = self._image(drawn, drawn.volume.sequence)
        return np.stack(
            [self._image(p, drawn.volume.sequence) + 1 if 0 <= p.plane < n else np.zeros_like(like) for p in planes]
        )

    def _expected(self, drawn: Drawn, own: int, other: int) -> NDArray[np.float32]:
        """What the atlas shows of `own` and `other` domain, and the spread of the other, in the crop of a slice."""
        return np.concatenate([self.maps(drawn, (own, other)), self.maps(drawn, (other,), spreads=True)])

    def maps(self, drawn: Drawn, domains: Sequence[int], spreads: bool = False) -> NDArray[np.float32]:
        """What the atlas shows of some domains in the crop of a slice, or how it spreads: (n, row, column), [0, 2]."""
        assert self.atlas is not None
        volume, size = drawn.volume, self.config.crop
        at = self.atlas[volume.study.subject, volume.sequence]
        values = at.plane((at.spreads if spreads else at.means)[list(domains)], drawn.plane) / np.float32(127.5)
        out = np.zeros((len(domains), *size), np.float32)
        _, rows, columns = at.box
        top, left = (b.start - c for b, c in zip((rows, columns), volume.corner, strict=True))
        here = [slice(max(s, 0), min(s + n, m)) for s, n, m in zip((top, left), values.shape[1:], size, strict=True)]
        there = [slice(h.start - s, h.stop - s) for h, s in zip(here, (top, left), strict=True)]
        out[:, here[0], here[1]] = values[:, there[0], there[1]]
        return np.ascontiguousarray(out[:, :, drawn.columns])

    def _varied(self, batch: Batch, drawn: Sequence[tuple[Drawn, Drawn]], rng: np.random.Generator) -> Batch:
        """Show sources as other scanners and heads would, and hide or spoil what stands beside them now and then."""
        config = self.config
        if not (config.augment or config.warp):
            return batch
        new = {
            name: getattr(batch, name).copy()
            for name in ("x_src", "labels_src", "x_true", "near_src", "atlas_src")
            if getattr(batch, name) is not None
        }
        same = np.stack([self._image(self.other_plane(rng, source), source.volume.sequence) for source, _ in drawn])
        tones = []
        for i in range(len(batch.x_src)):
            if rng.random() < config.warp:
                move = draw_move(rng, config.crop)
                for name, background in (("x_src", -1.0), ("x_true", -1.0), ("near_src", 0.0), ("atlas_src", 0.0)):
                    if name in new:
                        new[name][i] = moved(new[name][i], move, background)
                new["labels_src"][i, 0] = moved_labels(new["labels_src"][i, 0], move)
            self._spoil(new, i, rng)
            tones.append(draw_tone(rng) if rng.random() < 0.8 else PLAIN)
        clean = new["x_src"].copy()
        tone = np.stack([toned(x, t) for x, t in zip(clean, tones, strict=True)])
        same = np.stack([toned(x, t) for x, t in zip(same, tones, strict=True)])[:, None]
        for i in range(len(clean)):
            if rng.random() < config.augment:
                near = new["near_src"][i] - 1 if self.near else np.empty((0, *config.crop), np.float32)
                shown = shaded(toned(np.concatenate([new["x_src"][i], near]), draw_tone(rng)), rng)
                new["x_src"][i] = shown[:1]
                if self.near:
                    new["near_src"][i] = shown[1:] + 1
        new["lesion_src"] = (new["labels_src"] > 0).astype(np.float32)
        return batch._replace(**new, x_clean=clean, x_tone=tone, x_same=same)

    def _spoil(self, new: dict[str, NDArray[np.float32]], i: int, rng: np.random.Generator) -> None:
        """Neighbours may be missing, as in a cycle; the atlas may be, or lie a few millimetres off."""
        hidden, off = rng.random(2)
        if "near_src" in new and hidden < 0.2:
            new["near_src"][i] = 0
        if "atlas_src" in new:
            if off < self.config.atlas_dropped:
                new["atlas_src"][i] = 0
            elif off < self.config.atlas_dropped + self.config.atlas_shifted:
                reach = max(1, round(6 / self.config.spacing_mm))
                new["atlas_src"][i] = np.roll(new["atlas_src"][i], rng.integers(-reach, reach + 1, 2), (1, 2))

    def other_plane(self, rng: np.random.Generator, drawn: Drawn) -> Drawn:
        """A plane of the same volume, nearby in height but not the same if there is another."""
        planes = drawn.volume.planes[drawn.volume.planes != drawn.plane]
        return drawn if not len(planes) else drawn._replace(plane=int(planes[rng.integers(len(planes))]))

    def _pair(self, rng: np.random.Generator, y_src: int, y_trg: int) -> tuple[Drawn, Drawn]:
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
        first = Drawn(source, int(source.planes[at]), flips[0])
        return first, Drawn(reference, int(reference.planes[near]), flips[1])

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

    def _read(self, drawn: Drawn) -> tuple[NDArray[np.float32], ...]:
        volume = drawn.volume
        x = self._image(drawn, volume.sequence)
        labels = volume.study.labels()
        if labels is None:
            return x, np.full_like(x, -1)
        own = crop(labels[drawn.plane], volume.corner, *self.config.crop)[:, drawn.columns]
        return x, np.ascontiguousarray(own).astype(np.float32)

    def _image(self, drawn: Drawn, sequence: str) -> NDArray[np.float32]:
        image = crop(drawn.volume.study.volume(sequence)[drawn.plane], drawn.volume.corner, *self.config.crop)
        return to_unit(np.ascontiguousarray(image[:, drawn.columns]))

    def _true(self, source: Drawn, domain: int, like: NDArray[np.float32]) -> NDArray[np.float32]:
        """The drawn plane of the source's subject in another domain; background where the draw has no such volume."""
        subject = source.volume.study.subject
        own = [v for v in self.by_domain[domain] if v.study.subject == subject]
        return self._image(source, own[0].sequence) if own else np.full_like(like, -1.0)
