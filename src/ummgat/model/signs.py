"""What can be seen of an error without the truth, voxel by voxel: the values that `Trust` weighs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.model.atlas import Brought
from ummgat.model.combined import Answered
from ummgat.model.lean import smoothed
from ummgat.model.translator import Translator
from ummgat.model.trust import Maps

SIGNS = (
    "above the atlas",
    "below the atlas",
    "expected bright",
    "expected dark",
    "spread of the atlas",
    "unlikeness of the source",
    "ambiguity of the source",
    "source bright",
    "source dark",
    "source uneven",
    "uneven",
    "bright",
    "dark",
    "lesion",
    "enhancing tumour",
    "edge of the brain",
    "height",
    "disagreement of sources",
)
"""What speaks against a voxel, see `signs`."""

UNIT = 32.0
"""Grey levels that count as one."""


def columns(translator: Translator, made: Answered, planes: Sequence[int]) -> Maps | None:
    """The values that weights belong to: (columns, plane, row, column) at `planes`; None where the atlas did not fit.

    `made` holds these planes and no others, see `Answered.at`.
    One constant, the share of every domain in the sources, every sign and its square.
    """
    found = signs(translator, made, planes)
    if found is None:
        return None
    shares = np.zeros(len(translator.model.table), np.float32)
    for sequence, share in made.weights.items():
        shares[translator.domain(sequence)] = share
    flat = np.broadcast_to(shares[:, None, None, None], (len(shares), *found.shape[1:]))
    return np.concatenate([np.ones_like(found[:1]), flat, found, np.square(found)]).astype(np.float32)


def n_columns(n_domains: int) -> int:
    """Of `columns`."""
    return 1 + n_domains + 2 * len(SIGNS)


def signs(translator: Translator, made: Answered, planes: Sequence[int]) -> Maps | None:
    """What speaks against each voxel of `made`, which holds `planes` alone: (sign, plane, row, column), 0 to 4.

    None where the atlas did not fit. What an atlas would say is 0 for a model without one.
    """
    brought, model = translator.brought(), translator.model
    if brought is None and model.atlas is not None:
        return None
    target = model.table.index(made.target)
    chosen = list(planes)
    grey = made.image.astype(np.float32)
    brain = made.image > 0
    spread, unlike, open_to, source = (np.zeros(grey.shape, np.float32) for _ in range(4))
    expected = grey
    for sequence, share in made.weights.items():
        own = translator.volumes[sequence][chosen]
        curve = np.nan_to_num(model.spreads[translator.domain(sequence), target])
        at = np.interp(np.arange(256), np.linspace(0, 255, len(curve)), curve).astype(np.float32)
        open_to += np.float32(share) * at[own]
        source += np.float32(share) * own
        if brought is not None:
            mean = _shown(brought, brought.means[[translator.domain(sequence)]], chosen, grey.shape)
            unlike += np.float32(share) * np.abs(own - mean)
    if brought is not None:
        atlas = translator.expected(made.target, chosen)
        assert atlas is not None
        expected = atlas.astype(np.float32)
        spread = _shown(brought, brought.spreads[[target]], chosen, grey.shape)
    depth = np.stack([ndimage.distance_transform_edt(p) for p in brain]) * model.config.data.spacing_mm
    lesion, enhancing = np.zeros_like(grey), np.zeros_like(grey)
    if made.posterior is not None:
        lesion, enhancing = 1 - made.posterior[0], made.posterior[3]
    occupied = np.flatnonzero(next(iter(translator.volumes.values())).any((1, 2)))
    height = (np.asarray(chosen) - occupied[0]) / max(np.ptp(occupied), 1)
    found = [
        smoothed(np.maximum(grey - expected, 0), brain) / UNIT,
        smoothed(np.maximum(expected - grey, 0), brain) / UNIT,
        *_sides(expected),
        spread / UNIT,
        smoothed(unlike, brain) / UNIT,
        smoothed(open_to, brain) / UNIT,
        *_sides(source),
        _slope(source),
        _slope(grey),
        *_sides(grey),
        lesion,
        enhancing,
        np.exp(-depth / 4),
        np.broadcast_to(height[:, None, None], grey.shape),
        smoothed(np.stack(made.answers).astype(np.float32).std(0), brain) / UNIT,
    ]
    return np.where(brain, np.minimum(np.stack(found), 4.0), 0).astype(np.float32)


def _sides(grey: Maps) -> tuple[Maps, Maps]:
    """How far above and below ordinary tissue."""
    above = ((grey - 100) / UNIT).astype(np.float32)
    return np.maximum(above, 0), np.maximum(-above, 0)


def _slope(grey: Maps) -> Maps:
    """How steep each plane is, over one voxel."""
    slope = [ndimage.gaussian_gradient_magnitude(plane, 1.0) for plane in grey]
    return (np.stack(slope) / (UNIT / 4)).astype(np.float32)


def _shown(brought: Brought, maps: NDArray[np.uint8], planes: Sequence[int], shape: tuple[int, ...]) -> Maps:
    """One map of the atlas at some planes of the image."""
    out = np.zeros(shape, np.float32)
    _, rows, columns_ = brought.box
    for i, plane in enumerate(planes):
        out[i, rows, columns_] = brought.plane(maps, plane)[0]
    return out


def reliability(translator: Translator, made: Answered) -> NDArray[np.uint8] | None:
    """Percent of voxels like this one that are right, at least 1 in the brain, 0 outside; None where nothing is
    known.
    """
    target, trust = translator.model.table.index(made.target), translator.model.trust
    if trust is None or not trust.knows(target):
        return None
    out = np.zeros(made.image.shape, np.uint8)
    planes = np.flatnonzero(made.image.any((1, 2))).tolist()
    for start in range(0, len(planes), 16):  # a few planes at once: forty maps of a whole volume are gigabytes
        part = planes[start : start + 16]
        own = made.at(part)
        values = columns(translator, own, part)
        if values is None:
            return None
        percent = np.clip(np.rint(100 * trust.share(target, values)), 1, 100)
        out[part] = np.where(own.image > 0, percent, 0)
    return out
