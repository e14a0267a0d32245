"""Training patches of the segmenter; a batch is a pure function of (seed, step)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.study import Study
from ummgat.segment.unet import SegmenterConfig, normalised, with_neighbours

LESION_SHARE = 0.7
"""Of the patches that are centered on lesion where a subject has one."""

ROTATION, SCALE = 15.0, 0.1
"""Largest turn in degrees and largest relative change of size."""

GAIN, OFFSET, NOISE = 0.15, 0.15, 0.1
"""Spread of each image's gain and offset, in units of its own standard deviation; largest noise likewise."""


@dataclass
class Subject:
    """One annotated subject in memory."""

    name: str
    images: NDArray[np.float32]
    """(sequence, plane, row, column), `unet.normalised`."""
    labels: NDArray[np.uint8]


class Batch(NamedTuple):
    """Patches of one step."""

    x: Tensor
    """(batch, channels, [plane,] row, column)"""
    y: Tensor
    """(batch, 1, [plane,] row, column), class numbers."""


def read_subject(study: Study, config: SegmenterConfig) -> Subject:
    """Read what a training subject needs.

    Raises
    ------
    ValueError
        Without annotation, with another kind of it, or without one of the sequences.
    """
    labels, absent = study.labels(), [q for q in config.sequences if q not in study.sequences]
    if labels is None or (config.regions == "multi" and study.record.labels_regions == "wt"):
        found = "no annotation" if labels is None else "a whole-tumour mask"
        raise ValueError(
            f"Subject cannot train a segmenter: {study.subject}. Found {found}; expected "
            f"{'labels NCR, ED, ET' if config.regions == 'multi' else 'an annotation'}. Leave it out, or choose other "
            f"regions."
        )
    if absent:
        raise ValueError(
            f"Subject cannot train a segmenter: {study.subject}. Found no {', '.join(absent)}; expected "
            f"{', '.join(config.sequences)}. Leave it out, or choose other sequences."
        )
    images = normalised([np.asarray(study.volume(q)) for q in config.sequences])
    labels = np.asarray(labels)
    return Subject(study.subject, images, (labels > 0).astype(np.uint8) if config.regions == "wt" else labels)


def draw_batch(subjects: Sequence[Subject], config: SegmenterConfig, step: int) -> Batch:
    """Patches of random subjects, turned, scaled, mirrored, and changed in intensity; sequences dropped if asked
    for.
    """
    rng = np.random.default_rng([config.seed, step])
    xs, ys = [], []
    for _ in range(config.batch):
        subject = subjects[int(rng.integers(len(subjects)))]
        lesion = rng.random() < LESION_SHARE and bool(subject.labels.any())
        where = subject.labels > 0 if lesion else subject.images.any(0)
        places = np.flatnonzero(where)
        center = np.unravel_index(places[rng.integers(len(places))], where.shape)
        x, y = _patch(subject, config, center, rng)
        xs.append(x)
        ys.append(y)
    images, labels = _moved(torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys))[:, None], config, rng)
    return Batch(_dropped(_recoloured(images, config, rng), config, rng), labels.long())


def _patch(
    subject: Subject, config: SegmenterConfig, center: Sequence[np.intp], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut around a voxel; in the middle of the patch in no preferred place. Beyond the image there are zeros."""
    starts = [
        int(c) - n // 2 + int(rng.integers(-(n // 4), n // 4 + 1)) for c, n in zip(center, config.crop, strict=True)
    ]
    ends = [s + n for s, n in zip(starts, config.crop, strict=True)]
    shape = subject.labels.shape
    inside = tuple(slice(max(s, 0), min(e, n)) for s, e, n in zip(starts, ends, shape, strict=True))
    rest = [(max(-s, 0), max(e - n, 0)) for s, e, n in zip(starts, ends, shape, strict=True)]
    labels = np.pad(subject.labels[inside], rest)
    if config.dimensions == 3:
        return np.pad(subject.images[:, *inside], [(0, 0), *rest]), labels
    images = with_neighbours(subject.images[:, :, *inside[1:]], np.array([center[0]]), config.planes)[0]
    return np.pad(images, [(0, 0), *rest[1:]]), labels[0]


def _moved(x: Tensor, y: Tensor, config: SegmenterConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Turn in-plane, scale and mirror each patch about its middle."""
    angle = torch.from_numpy(rng.uniform(-1, 1, len(x)) * math.radians(ROTATION)).float()
    scale = torch.from_numpy(np.exp(rng.uniform(-SCALE, SCALE, len(x)))).float()
    mirror = torch.from_numpy(np.where(rng.random(len(x)) < 0.5, -1.0, 1.0)).float()
    rows, columns = x.shape[-2:]
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.zeros(len(x), config.dimensions, config.dimensions + 1)
    # grid_sample's first axis is the column; sides of a patch differ, so a turn must know their ratio.
    matrix[:, 0, 0], matrix[:, 0, 1] = cos * mirror, -sin * mirror * (rows / columns)
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * (columns / rows), cos
    if config.dimensions == 3:
        matrix[:, 2, 2] = scale
    grid = F.affine_grid(matrix, [len(x), 1, *x.shape[2:]], align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
    labels = F.grid_sample(y.float(), grid, mode="nearest", align_corners=False)
    return moved, labels


def _recoloured(x: Tensor, config: SegmenterConfig, rng: np.random.Generator) -> Tensor:
    """Change gain and offset of each image inside its brain, and add noise."""
    n, images = len(x), len(config.sequences)
    shape = (n, images, 1, *([1] * (x.ndim - 2)))
    gain = torch.from_numpy(np.exp(rng.normal(0, GAIN, shape))).float()
    offset = torch.from_numpy(rng.normal(0, OFFSET, shape)).float()
    noise = torch.from_numpy(rng.uniform(0, NOISE, (n, *([1] * (x.ndim - 1))))).float()
    seed = torch.Generator().manual_seed(int(rng.integers(2**62)))
    split = x.view(n, images, -1, *x.shape[2:])
    brain = (split != 0).float()
    changed = (split * gain + offset + noise[:, None] * torch.randn(split.shape, generator=seed)) * brain
    return changed.view_as(x)


def _dropped(x: Tensor, config: SegmenterConfig, rng: np.random.Generator) -> Tensor:
    """Blank sequences with probability `config.drop` each; one that is drawn for it stays."""
    if not config.drop:
        return x
    n, images = len(x), len(config.sequences)
    kept = rng.random((n, images)) >= config.drop
    kept[np.arange(n), rng.integers(images, size=n)] = True
    mask = torch.from_numpy(kept).float().view(n, images, *([1] * (x.ndim - 1)))
    return (x.view(n, images, -1, *x.shape[2:]) * mask).view_as(x)
