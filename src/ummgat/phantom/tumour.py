"""A tumour in a phantom brain: necrotic core, enhancing rim, oedema that follows the white matter, and mass effect.

`plan_tumour` plans a glioma; `meningioma.plan_meningioma` another kind, drawn by the same `grow_tumour`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from ummgat.core.study import LABELS
from ummgat.phantom.anatomy import Anatomy, Mass, Shape
from ummgat.phantom.noise import Field, enlarge, smooth_noise
from ummgat.phantom.signal import Tissue

_SPREAD_MM = 45.0  # oedema reaches no further than this from the core's box
_GROWTH_MM = 2.0  # oedema is grown on voxels of about this size


@dataclass(frozen=True)
class TumourPlan:
    """Size and place of a tumour, decided before the anatomy is rendered because it pushes the anatomy."""

    mass: Mass
    whole_ml: float
    core_share: float
    """(NCR + ET) / whole tumour; 1 is a tumour without oedema."""
    necrotic_share: float
    """NCR / (NCR + ET)."""
    lobes: float = 0.24
    """How uneven the outline is: standard deviation as a share of the radius."""
    side: int = 0
    """1 or -1: the core is only where x has this sign, cut off at the falx; 0: on both sides."""
    solid: Tissue | None = None
    """What the enhancing part consists of; None: a glioma's, of the table."""


def plan_tumour(shape: Shape, rng: np.random.Generator) -> TumourPlan:
    """Draw size and place: supratentorial, centred in white matter, away from surface and ventricles.

    Whole tumours of 5–120 mL, of which a fifth to three fifths are core. Source: ours; ranges as in BraTS.
    """
    whole = float(np.clip(np.exp(rng.normal(np.log(48), 0.7)), 5, 120))
    core_share = float(rng.uniform(0.2, 0.6))
    if shape.analytic:  # voxels are large: keep every part at least a few voxels
        whole, core_share = max(whole, 50.0), max(core_share, 0.35)
    radius = (3 * whole * 1000 * core_share / (4 * np.pi)) ** (1 / 3)
    maps, depth = shape.lattice_maps, shape.lattice_depth
    x, _, z = shape.moved
    spacing = shape.step * shape.frame.unit_mm
    clear = spacing * ndimage.distance_transform_edt(maps["ventricles"] < 0.4)
    for strictness in (1.0, 0.6, 0.3, 0.0):
        good = (
            (maps["wm"] > 0.55 * strictness)
            & (depth > strictness * (0.75 * radius + 5))
            & (clear > strictness * (0.6 * radius + 3))
            & (np.abs(x) > 14 * strictness)
            & (z > -8)
            & (maps["brain"] > 0.5)
        )
        places = np.argwhere(good)
        if len(places):
            break
    place = tuple(places[rng.integers(len(places))])
    a, b, c = (float(axis[place]) for axis in shape.position)
    return TumourPlan(
        Mass((a, b, c), float(radius), float(radius * rng.uniform(0.3, 0.6))),
        whole,
        core_share,
        float(rng.uniform(0.15, 0.65)),
    )


def grow_tumour(
    anatomy: Anatomy, plan: TumourPlan, rng: np.random.Generator
) -> tuple[dict[str, Field], NDArray[np.uint8]]:
    """Draw the tumour into a rendered anatomy.

    Parameters
    ----------
    anatomy : Anatomy
        Already pushed by `plan.mass`.
    plan : TumourPlan
    rng : Generator

    Returns
    -------
    fractions : dict
        Maps `ncr`, `et`, `ed` of the box's shape, float32 in [0, 1]; what is left of 1 is healthy tissue.
        `ed` is the degree of infiltration, less than 1 even in full oedema.
    labels : ndarray of the box's shape, uint8, numbered as `LABELS`
    """
    unit = anatomy.frame.unit_mm
    voxel_ml = unit**3 / 1000
    shape = anatomy.mask.shape
    allowed = anatomy.mask & (anatomy.ventricles < 0.35)
    if plan.side:
        allowed &= anatomy.position[0] * plan.side > 0
    level = _core_level(anatomy, plan, rng)
    n_core = max(8, round(plan.whole_ml * plan.core_share / voxel_ml))
    core_limit = _rank(level, allowed, n_core)
    core = _largest_part(allowed & (level <= core_limit))
    # The rim: the same level, moved by noise, so that it is thick here and broken there.
    wobble = 2.2 * smooth_noise(rng, shape, 4.0 / unit) + 0.5 * smooth_noise(rng, shape, 1.5 / unit)
    inner = np.asarray(level + min(1.0, plan.mass.radius_mm / 14) * wobble, np.float32)
    n_necrotic = min(max(2, round(core.sum() * plan.necrotic_share)), int(core.sum()) - 2)
    inner_limit = _rank(inner, core, n_necrotic) if plan.necrotic_share > 0 else np.float32(-1e6)
    edge = np.float32(0.45 * max(unit, 1.0))
    soft_core = allowed * _sigmoid((core_limit - level) / edge) * _near(core)
    # Linear mixing inside the core: dead centre to living rim.
    soft_dead = _sigmoid((inner_limit - inner) / edge)
    fractions = {
        "ncr": (soft_core * soft_dead).astype(np.float32),
        "et": (soft_core * (1 - soft_dead)).astype(np.float32),
        "ed": np.zeros(shape, np.float32),
    }
    labels = np.zeros(shape, np.uint8)
    if plan.core_share < 1:
        oedema, fractions["ed"] = _oedema(anatomy, plan, allowed, core, soft_core, rng)
        labels[oedema] = LABELS["ED"]
    labels[core] = LABELS["ET"]
    labels[core & (inner <= inner_limit)] = LABELS["NCR"]
    return fractions, labels


def _oedema(
    anatomy: Anatomy,
    plan: TumourPlan,
    allowed: NDArray[np.bool_],
    core: NDArray[np.bool_],
    soft_core: Field,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], Field]:
    """Where the label is, and the degree of infiltration."""
    unit = anatomy.frame.unit_mm
    time = _arrival(anatomy, core, rng)
    open_tissue = allowed & ~core & (anatomy.fractions["csf"] < 0.5)
    n_oedema = max(4, round(plan.whole_ml * (1 - plan.core_share) / (unit**3 / 1000)))
    # Smoothing after growth, or the border would show every sliver of white matter and the growth lattice.
    bound = np.float32(1.6) * _rank(time, open_tissue, n_oedema)
    time = ndimage.gaussian_filter(np.minimum(time, bound), 1.3 / unit, truncate=3.0)
    time_limit = _rank(time, open_tissue, n_oedema)
    oedema = open_tissue & (time <= time_limit)
    reach = np.clip(time / max(time_limit, np.float32(1e-3)), 0, 3)
    infiltration = _sigmoid((1 - reach) / np.float32(0.07)) * (0.92 - 0.22 * np.clip(reach, 0, 1) ** 2)
    infiltration *= 1 + 0.07 * smooth_noise(rng, anatomy.mask.shape, 2.5 / unit)
    soft = np.clip(infiltration, 0, 1) * (1 - anatomy.fractions["csf"]) * (1 - soft_core) * anatomy.mask
    return oedema, soft.astype(np.float32)


def _core_level(anatomy: Anatomy, plan: TumourPlan, rng: np.random.Generator) -> Field:
    """Distance in mm from the tumour's centre, made ellipsoidal and lobulated by noise."""
    unit, radius = anatomy.frame.unit_mm, plan.mass.radius_mm
    away = anatomy.position - np.array(plan.mass.center, np.float32).reshape(3, 1, 1, 1)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    stretch = np.diag(np.exp(rng.normal(0, 0.16, 3)))
    turned = np.tensordot((stretch @ axes).astype(np.float32), away, 1)
    distance = np.sqrt((turned**2).sum(0))
    shape = anatomy.mask.shape
    lobes = plan.lobes * radius * smooth_noise(rng, shape, max(radius / 2.2, 3.0) / unit)
    fringe = 0.25 * plan.lobes * radius * smooth_noise(rng, shape, 1.8 / unit)
    level: Field = (distance + (lobes + fringe) * np.clip(distance / radius, 0.2, 1.2)).astype(np.float32)
    return level


def _arrival(anatomy: Anatomy, core: NDArray[np.bool_], rng: np.random.Generator) -> Field:
    """When oedema starting from the core reaches each voxel: fast in white matter, slow in grey, never through
    fluid.
    """
    unit = anatomy.frame.unit_mm
    step = max(1, round(_GROWTH_MM / unit))
    low = [max(0, int(i.min()) - round(_SPREAD_MM / unit)) // step * step for i in np.nonzero(core)]
    high = [int(i.max()) + round(_SPREAD_MM / unit) for i in np.nonzero(core)]
    pick = tuple(slice(a, b + 1, step) for a, b in zip(low, high, strict=True))
    f = {name: field[pick] for name, field in anatomy.fractions.items()}
    speed = f["wm"] ** 2 + 0.05 * f["gm"] + 0.2 * f["dgm"]
    speed = speed * np.exp(0.6 * smooth_noise(rng, speed.shape, 4.5 / (step * unit)))
    free = anatomy.mask[pick] & (f["csf"] < 0.5)
    cost = np.where(free, 1 / np.maximum(speed, 0.04), np.inf)
    start = np.argwhere(core[pick] & free)
    if not len(start):
        start = np.minimum((np.argwhere(core) - low) // step, np.array(cost.shape) - 1)
        cost[tuple(start.T)] = 1.0
    times, _ = MCP_Geometric(cost, fully_connected=True).find_costs(start)
    known = np.isfinite(times)
    times = np.where(known, times, times[known].max() * 1.5 + 1).astype(np.float32)
    out = np.full(anatomy.mask.shape, times.max(), np.float32)
    part = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))  # slicing stops at the array's end
    out[part] = enlarge(times, step, out[part].shape)
    return out


def _rank(level: Field, allowed: NDArray[np.bool_], n: int) -> np.float32:
    """Find the level below which `n` allowed voxels lie (all, if there are fewer)."""
    values = level[allowed]
    n = min(max(n, 1), values.size)
    return np.float32(np.partition(values, n - 1)[n - 1])


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the connected part of `mask` that holds most voxels; islands cut off by a ventricle are dropped."""
    parts, n = ndimage.label(mask)
    if n <= 1:
        return mask
    return np.asarray(parts == np.bincount(parts.ravel())[1:].argmax() + 1)


def _near(core: NDArray[np.bool_]) -> Field:
    """1 on the core and its neighbours, so that soft edges do not revive dropped islands."""
    return np.asarray(ndimage.binary_dilation(core, iterations=2), np.float32)


def _sigmoid(value: Field) -> Field:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -30, 30))), np.float32)
