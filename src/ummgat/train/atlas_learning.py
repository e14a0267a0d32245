"""Learn the atlas of every domain from training volumes: registered means, lesions left out, each subject
subtractable.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.tensors import load_tensors, save_tensors
from ummgat.model.atlas import LEVELS, Atlas, Brought, Volume, bring, coarse_image, place, registered, resized, scored
from ummgat.train.slices import TrainingVolume

log = logging.getLogger(__name__)

ROUNDS = 2
"""Times that every image is registered to the mean of its domain, which is then taken anew."""

MARGIN = 4
"""Voxels of the frame around the mean brain."""

MOST_VOLUMES = 60
"""Volumes per domain that make its mean: more would not change it."""


class Member(NamedTuple):
    """One image in the frame."""

    subject: str
    values: Volume
    """0 outside its brain."""
    healthy: NDArray[np.bool_]


class Totals(NamedTuple):
    """Sums over the members of a domain, at each point of the frame, healthy voxels only."""

    n: NDArray[np.float32]
    values: NDArray[np.float32]
    squares: NDArray[np.float32]

    def without(self, members: Sequence[Member], subject: str) -> "Totals":
        """Take a subject's images out."""
        n, values, squares = self
        for member in members:
            if member.subject == subject:
                own = np.where(member.healthy, member.values, 0).astype(np.float32)
                n, values, squares = n - member.healthy, values - own, squares - own**2
        return Totals(n, values, squares)


class Learnt(NamedTuple):
    """An atlas, and what it was made of, so that a subject can be left out of it."""

    atlas: Atlas
    members: list[list[Member]]
    """Per domain."""
    totals: list[Totals]

    def without(self, subject: str) -> Atlas:
        """The atlas of the other subjects. A domain of which nothing is left has mean 0 everywhere."""
        left = [t.without(m, subject) for t, m in zip(self.totals, self.members, strict=True)]
        brain = self.atlas.brain
        return Atlas(np.stack([_mean(t, brain) for t in left]), np.stack([_spread(t, brain) for t in left]), brain)


class _Own(NamedTuple):
    """One training volume, coarse, on its own grid."""

    subject: str
    values: NDArray[np.float32]
    brain: NDArray[np.bool_]
    healthy: NDArray[np.bool_]


def learn_atlas(
    volumes: Sequence[TrainingVolume],
    n_domains: int,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> Learnt:
    """Learn the atlas of all domains in one frame: the mean shape of all training brains.

    No two images of a subject are ever compared; one volume per domain is enough. Lesions, where they are annotated,
    are filled with the mean during registration and do not count in it.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
    n_domains : int
    rounds : int
        Times that every image is registered to the mean of its domain.
    progress : callable, optional
        (registrations done, in all).
    """
    own = [[_own(v) for v in _chosen([v for v in volumes if v.domain == d])] for d in range(n_domains)]
    points = _stretched(own)
    done, total = 0, rounds * sum(map(len, own))
    for again in range(rounds + 1):
        members = [[_member(i, p) for i, p in zip(a, b, strict=True)] for a, b in zip(own, points, strict=True)]
        brain = np.rint(255 * np.mean([m.values > 0 for every in members for m in every], axis=0)).astype(np.uint8)
        totals = [_totals(every) for every in members]
        means = np.stack([_mean(t, brain) for t in totals])
        if again == rounds:
            break
        for domain, images in enumerate(own):
            fixed = scored(means[domain], brain >= 128)
            for i, image in enumerate(images):
                filled = _filled(image, members[domain][i], means[domain], points[domain][i])
                points[domain][i], similarity = registered(fixed, scored(filled, image.brain), LEVELS[:-1])
                log.debug("Atlas of domain %d, %s: similarity %.2f", domain, image.subject, similarity)
                done += 1
                if progress is not None:
                    progress(done, total)
    spreads = np.stack([_spread(t, brain) for t in totals])
    return Learnt(Atlas(means, spreads, brain), members, totals)


def _chosen(own: Sequence[TrainingVolume]) -> list[TrainingVolume]:
    """All, or `MOST_VOLUMES` evenly spaced over the cohort."""
    return [own[i] for i in np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_VOLUMES)).round().astype(int))]


def _own(volume: TrainingVolume) -> _Own:
    spacing = min(volume.study.grid.spacing_mm)
    coarse = coarse_image(np.asarray(volume.study.volume(volume.sequence)), spacing)
    healthy, labels = coarse.brain, volume.study.labels()
    if labels is not None:
        lesion = resized((np.asarray(labels)[coarse.box] > 0).astype(np.float32), coarse.values.shape)
        healthy = healthy & (lesion < 0.1)
    return _Own(volume.study.subject, coarse.values, coarse.brain, healthy)


def _stretched(own: Sequence[Sequence[_Own]]) -> list[list[NDArray[np.float32]]]:
    """Places of the frame's voxels in each image, by the centers and extents of brains: the first, blurred frame."""
    every = [_extent(image.brain) for images in own for image in images]
    spread = np.median([s for _, s in every], axis=0)
    reach = max(np.max(np.array(image.brain.shape) / s) for (_, s), image in zip(every, _flat(own), strict=True))
    shape = [2 * int(np.ceil(min(reach, 6.0) * s / 2)) + 2 * MARGIN for s in spread]
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    middle = (np.array(shape, np.float32) - 1).reshape(3, 1, 1, 1) / 2

    def places(image: _Own) -> NDArray[np.float32]:
        center, extent = _extent(image.brain)
        scale = (extent / spread).reshape(3, 1, 1, 1).astype(np.float32)
        return (index - middle) * scale + center.reshape(3, 1, 1, 1).astype(np.float32)

    return [[places(image) for image in images] for images in own]


def _flat(own: Sequence[Sequence[_Own]]) -> list[_Own]:
    return [image for images in own for image in images]


def _extent(brain: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Center and standard deviation of a brain along each axis, in voxels."""
    places = np.argwhere(brain)
    return places.mean(0), np.maximum(places.std(0), 1.0)


def _member(image: _Own, points: NDArray[np.float32]) -> Member:
    """Bring an image into the frame."""

    def brought(values: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray(ndimage.map_coordinates(values, points, order=1, mode="constant"), np.float32)

    share = brought(image.brain.astype(np.float32))
    values = brought(np.where(image.brain, image.values, 0)) / np.maximum(share, 1e-3)
    inside = share >= 0.5
    plain = np.where(inside, np.clip(np.rint(values), 1, 255), 0).astype(np.uint8)
    return Member(image.subject, plain, inside & (brought(image.healthy.astype(np.float32)) > 0.9))


def _filled(image: _Own, member: Member, mean: Volume, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image with lesions replaced by what the mean shows there, as far as the frame is known in it by now."""
    if bool((image.healthy == image.brain).all()):
        return image.values
    # Backwards by scattering: each voxel of the frame tells the image's voxel it came from what the mean is.
    at = np.rint(points).astype(np.int64).reshape(3, -1)
    valid = np.all((at >= 0) & (at < np.array(image.values.shape)[:, None]), axis=0) & (mean.ravel() > 0)
    flat = np.ravel_multi_index(tuple(at[:, valid]), image.values.shape)
    size = image.values.size
    n = np.bincount(flat, minlength=size).reshape(image.values.shape).astype(np.float32)
    total = np.bincount(flat, mean.ravel()[valid], size).reshape(image.values.shape).astype(np.float32)
    near, weight = (ndimage.gaussian_filter(v, 1.0) for v in (total, n))
    typical = np.float32(np.median(image.values[image.healthy])) if image.healthy.any() else np.float32(100)
    known = np.where(weight > 1e-3, near / np.maximum(weight, 1e-3), typical)
    return np.where(image.brain & ~image.healthy, known, image.values).astype(np.float32)


def _totals(members: Sequence[Member]) -> Totals:
    n, values, squares = (np.zeros(members[0].values.shape, np.float32) for _ in range(3))
    for member in members:
        own = np.where(member.healthy, member.values, 0).astype(np.float32)
        n += member.healthy
        values += own
        squares += own**2
    return Totals(n, values, squares)


def _mean(totals: Totals, brain: Volume) -> Volume:
    """Mean where at least one member is healthy and most have brain, continued to everywhere else by the nearest."""
    known = (totals.n > 0.5) & (brain >= 128)
    if not known.any():
        return np.zeros(totals.n.shape, np.uint8)
    mean = totals.values / np.maximum(totals.n, 1)
    return _continued(np.clip(np.rint(mean), 1, 255).astype(np.uint8), known)


def _spread(totals: Totals, brain: Volume) -> Volume:
    known = (totals.n > 1.5) & (brain >= 128)
    if not known.any():
        return np.zeros(totals.n.shape, np.uint8)
    n = np.maximum(totals.n, 1)
    variance = np.maximum(totals.squares / n - (totals.values / n) ** 2, 0)
    return _continued(np.clip(np.rint(np.sqrt(variance)), 0, 255).astype(np.uint8), known)


def _continued(values: Volume, known: NDArray[np.bool_]) -> Volume:
    """Each unknown voxel as the nearest known one."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return values[tuple(nearest)]


class TrainingAtlas(NamedTuple):
    """The atlas of all training subjects, and what that of the others lets one expect of each."""

    atlas: Atlas
    expected: dict[tuple[str, str], Brought]
    """(subject, sequence) → the atlas without that subject, registered by that one image."""


FORMAT = "ummgat-atlas-1"


def training_atlas(
    volumes: Sequence[TrainingVolume],
    n_domains: int,
    file: Path,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingAtlas:
    """Learn the atlas, and bring it to every training volume; or read both from `file`, if it was learnt from the same.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
    n_domains : int
    file : Path
        Written if it is not there, or was learnt from other volumes: minutes of work that a resumed run need not
        repeat.
    progress : callable, optional
        (registrations done, in all).
    """
    mark = _fingerprint(volumes)
    if file.is_file():
        tensors, metadata = load_tensors(file, FORMAT)
        if metadata["volumes"] == mark:
            return _unpacked(tensors, metadata)
    total = (ROUNDS + 1) * len(volumes)
    learnt = learn_atlas(volumes, n_domains, progress=None if progress is None else lambda n, _: progress(n, total))
    expected = {}
    for i, volume in enumerate(volumes):
        others = learnt.without(volume.study.subject)
        # The only volume of its domain is found in the atlas that it made: what it is told of other domains is theirs.
        domain = volume.domain
        known = others if others.means[domain].any() else learnt.atlas
        image = np.asarray(volume.study.volume(volume.sequence))
        placed = place(image, min(volume.study.grid.spacing_mm), known.means[domain], known.brain)
        log.debug("%s %s: similarity %.2f", volume.study.subject, volume.sequence, placed.similarity)
        expected[volume.study.subject, volume.sequence] = bring(others, placed)
        if progress is not None:
            progress(total - len(volumes) + i + 1, total)
    found = TrainingAtlas(learnt.atlas, expected)
    _pack(found, mark, file)
    return found


def _fingerprint(volumes: Sequence[TrainingVolume]) -> str:
    """Of names, domains and voxels."""
    mark = hashlib.sha256()
    for volume in volumes:
        mark.update(f"{volume.study.subject} {volume.sequence} {volume.domain}".encode())
        mark.update(np.ascontiguousarray(volume.study.volume(volume.sequence)).data)
        labels = volume.study.labels()
        mark.update(b"" if labels is None else np.ascontiguousarray(labels).data)
    return mark.hexdigest()


def _pack(found: TrainingAtlas, mark: str, file: Path) -> None:
    tensors = {f"atlas.{name}": torch.from_numpy(values) for name, values in found.atlas._asdict().items()}
    boxes = []
    for i, ((subject, sequence), at) in enumerate(found.expected.items()):
        tensors |= {f"{i}.means": torch.from_numpy(at.means), f"{i}.spreads": torch.from_numpy(at.spreads)}
        boxes.append([subject, sequence, [[b.start, b.stop] for b in at.box]])
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, tensors, {"format": FORMAT, "volumes": mark, "boxes": boxes})


def _unpacked(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> TrainingAtlas:
    atlas = Atlas(*(tensors[f"atlas.{name}"].numpy() for name in Atlas._fields))
    expected = {}
    for i, (subject, sequence, box) in enumerate(metadata["boxes"]):
        z, y, x = (slice(*ends) for ends in box)
        means, spreads = (tensors[f"{i}.{name}"].numpy() for name in ("means", "spreads"))
        expected[subject, sequence] = Brought(means, spreads, (z, y, x))
    return TrainingAtlas(atlas, expected)
