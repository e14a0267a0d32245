"""One phantom subject: anatomy, tumour, and the images a scanner would make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.domain import SEQUENCES
from ummgat.core.volume import Grid
from ummgat.phantom.anatomy import TISSUES, Anatomy, Frame, Shape, brats_frame
from ummgat.phantom.meningioma import plan_meningioma
from ummgat.phantom.noise import Field, smooth_noise
from ummgat.phantom.scanner import Scanner
from ummgat.phantom.signal import TISSUE_TABLE, Protocol, Tissue, scaled, signal
from ummgat.phantom.tumour import TumourPlan, grow_tumour, plan_tumour

_CLASSES = (*TISSUES, "ncr", "et", "ed", "vessel")
Kind = Literal["glioma", "meningioma"]
_PLANS = {"glioma": plan_tumour, "meningioma": plan_meningioma}
_TEXTURE = 0.045  # standard deviation of the local variation of T1, T2 and CBF


@dataclass(frozen=True)
class PhantomSubject:
    """A subject with known truth. All arrays (plane, row, column) of one shape."""

    volumes: dict[str, NDArray[np.float32]]
    """Sequence → image: brain > 0, background exactly 0, brightness around the scanner's gain."""
    labels: NDArray[np.uint8]
    """Numbered as `ummgat.core.study.LABELS`; all 0 in a healthy subject."""
    brain: NDArray[np.bool_]
    tissue: NDArray[np.uint8]
    """Dominant tissue: 0 background, 1 white, 2 cortical grey, 3 deep grey, 4 fluid, 5 tumour, 6 vessel."""
    grid: Grid
    """Of the file to be written, NIfTI order."""


@dataclass(frozen=True)
class Body:
    """A subject before any scanner: fractions of every class per brain voxel, and how its tissues deviate."""

    frame: Frame
    box: tuple[slice, slice, slice]
    mask: NDArray[np.bool_]
    fractions: dict[str, Field]
    """Class → values of the masked voxels only, summing to 1."""
    texture: tuple[Field, Field]
    """Relative local change of T1 (and −PD-like effects), and of T2 and CBF, per masked voxel."""
    tissues: dict[str, Tissue]
    """This subject's own tissue table."""
    labels: NDArray[np.uint8]


def make_body(seed: int, frame: Frame, analytic: bool = False, healthy: bool = False, kind: Kind = "glioma") -> Body:
    """Anatomy and tumour of subject `seed`, independent of any scanner."""
    streams = [np.random.default_rng([seed, k]) for k in range(6)]
    shape = Shape(frame, streams[0], analytic)
    plan: TumourPlan | None = None
    if not healthy:
        plan = _PLANS[kind](shape, streams[1])
        shape.add_mass(plan.mass)
    anatomy = shape.render(streams[2])
    mask = anatomy.mask
    if plan is None:
        tumour = {name: np.zeros(mask.shape, np.float32) for name in ("ncr", "et", "ed")}
        labels = np.zeros(mask.shape, np.uint8)
    else:
        tumour, labels = grow_tumour(anatomy, plan, streams[3])
    rng = streams[4]
    rest = 1 - tumour["ncr"] - tumour["et"] - tumour["ed"]
    vessel = _vessels(anatomy, rng, analytic) * (1 - tumour["ncr"] - tumour["et"])
    worn = _periventricular(anatomy, rng) * anatomy.fractions["wm"]
    maps = {name: field * rest * (1 - vessel) for name, field in anatomy.fractions.items()}
    maps["wm"] = maps["wm"] * (1 - worn)
    maps |= {name: field * (1 - vessel) for name, field in tumour.items()}
    maps["ed"] = maps["ed"] + worn * anatomy.fractions["wm"] * rest * (1 - vessel)
    maps["vessel"] = vessel
    unit = frame.unit_mm
    texture = []
    for _ in range(2):
        fine, coarse = smooth_noise(rng, mask.shape, 1.1 / unit), smooth_noise(rng, mask.shape, 7.0 / unit)
        texture.append(np.asarray(_TEXTURE * (0.6 * fine + 0.8 * coarse), np.float32)[mask])
    table = dict(TISSUE_TABLE)
    if plan is not None and plan.solid is not None:
        table["et"] = plan.solid
    tissues = {}
    for name, tissue in table.items():
        spread = 0.10 if name in ("ncr", "et", "ed") else 0.025
        water, pd, adc, uptake, cbf = np.exp(rng.normal(0, spread, 5))
        # More free water lengthens T1 and T2 together.
        scales = {"t1": water**0.6, "t2": water, "t2_star": water, "pd": pd**0.2, "adc": adc, "cbf": cbf}
        tissues[name] = scaled(tissue, **scales, uptake=uptake**2)
    flat = {name: np.ascontiguousarray(maps[name][mask], dtype=np.float32) for name in _CLASSES}
    return Body(frame, anatomy.box, mask, flat, (texture[0], texture[1]), tissues, labels)


def _vessels(anatomy: Anatomy, rng: np.random.Generator, analytic: bool) -> Field:
    """Fraction of blood: thin curves in the sulci, choroid plexus in the ventricles, a trace of the sagittal sinus."""
    unit, shape = anatomy.frame.unit_mm, anatomy.mask.shape
    if analytic:
        return np.zeros(shape, np.float32)
    # Where two smooth fields both cross zero there are curves; a narrow Gaussian around them makes them tubes.
    a, b = (smooth_noise(rng, shape, 7.0 / unit) for _ in range(2))
    tube = np.exp(-(a**2 + b**2) / np.float32(2 * (0.10 * max(1.0, unit)) ** 2))
    x, y, z = anatomy.position
    cortex = np.clip(anatomy.fractions["csf"] + 0.4 * anatomy.fractions["gm"] + 0.06, 0, 1)
    # Faint tails are cut off; in large voxels a vessel fills a part only.
    tube = np.clip(1.1 * tube - 0.1, 0, 1) / np.float32(max(1.0, unit))
    vessels = tube * np.where(anatomy.ventricles > 0.2, 0, cortex)
    curls = smooth_noise(rng, shape, 1.6 / unit)
    plexus = np.where((anatomy.ventricles > 0.5) & (y < -18), np.clip(0.8 * (curls - 0.9), 0, 0.6), 0)
    sinus = np.where((np.abs(x) < 2.5) & (z > 8) & (anatomy.rim < 0.9), 0.7, 0).astype(np.float32)
    out: Field = np.clip(np.maximum(np.maximum(vessels, plexus), sinus), 0, 1) * anatomy.mask
    return out.astype(np.float32, copy=False)


def _periventricular(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Share of white matter that has aged next to the ventricles: the pale rim every older FLAIR shows."""
    near = ndimage.gaussian_filter(anatomy.ventricles, 2.2 / anatomy.frame.unit_mm, truncate=3.0)
    strength = np.float32(rng.uniform(0.1, 0.9))
    out: Field = np.clip(near * strength, 0, 0.4)
    return out


def scan(body: Body, scanner: Scanner, sequence: str, seed: int) -> NDArray[np.float32]:
    """Render the image `scanner` makes of `body`.

    Parameters
    ----------
    body : Body
    scanner : Scanner
    sequence : str
    seed : int
        Of noise, coil shading and repositioning; the anatomy does not depend on it.

    Returns
    -------
    ndarray of the frame's shape, (plane, row, column), float32
        Brain > 0, background 0. A copy.
    """
    rng = np.random.default_rng([seed, SEQUENCES.index(sequence), scanner.index, 13])
    ideal = ideal_image(body, scanner.protocol(sequence))
    unit, mask = body.frame.unit_mm, body.mask
    image = np.zeros(mask.shape, np.float32)
    image[mask] = ideal
    width, thickness, snr = scanner.blur_mm, scanner.slice_mm, scanner.snr
    if sequence in ("dwi", "hardi"):  # echo-planar: coarse and noisy
        width, thickness, snr = max(width, 2.0), max(thickness, 2.5), snr * 0.7
    elif sequence == "asl":
        width, thickness, snr = max(width, 4.5), max(thickness, 5.0), snr * 0.5
    # A voxel already averages over its own size; only what goes beyond it is blurred.
    extent = [np.sqrt(max(w**2 - unit**2, 0)) / (2.355 * unit) for w in (thickness, width, width)]
    mean = float(ideal.mean())
    if max(extent) > 0.15:
        image = _blur_inside(image, mask, extent)
    shading = scanner.bias * (0.8 * _coil(mask.shape, scanner.index) + 0.6 * smooth_noise(rng, mask.shape, 45.0 / unit))
    sigma = np.float32(mean / snr)
    real, imaginary = (_grain(rng, mask.shape, unit) * sigma for _ in range(2))
    image = np.sqrt((image * np.exp(shading) + real) ** 2 + imaginary**2)
    image *= np.float32(scanner.gain / mean)
    out = np.zeros(body.frame.shape, np.float32)
    out[body.box] = np.where(mask, np.maximum(image, np.float32(1e-3 * scanner.gain)), 0)
    return out


def ideal_image(body: Body, protocol: Protocol) -> Field:
    """Noiseless signal of every brain voxel: fractions mixed, each tissue varied to first order by the texture."""
    step = 0.02
    total = np.zeros_like(body.texture[0])
    slopes = [np.zeros_like(total), np.zeros_like(total)]
    for name, fraction in body.fractions.items():
        tissue = body.tissues[name]
        base = signal(tissue, protocol)
        varied = (
            signal(scaled(tissue, t1=1 + step), protocol),
            signal(scaled(tissue, t2=1 + step, t2_star=1 + step, cbf=1 + 2 * step), protocol),
        )
        total += np.float32(base) * fraction
        for slope, other in zip(slopes, varied, strict=True):
            slope += np.float32((other - base) / step) * fraction
    for slope, field in zip(slopes, body.texture, strict=True):
        total += slope * field
    return np.maximum(total, np.float32(0))


def _blur_inside(image: Field, mask: NDArray[np.bool_], sigma: Sequence[float]) -> Field:
    """Blur that does not mix background in: the head goes on beyond the skull-stripped brain."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0)
    blurred = ndimage.gaussian_filter(image, sigma, truncate=3.0)
    out: Field = np.where(mask, blurred / np.maximum(weight, np.float32(1e-3)), 0)
    return out


def _coil(shape: tuple[int, ...], index: int) -> Field:
    """Make the center's own coil shading: a smooth pattern around 0, the same for all its subjects."""
    p, r, c = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    turn = 0.9 + 2.4 * index
    tilt = np.cos(turn) * c + np.sin(turn) * r + 0.4 * np.cos(2 * turn) * p
    out: Field = tilt + 0.7 * (r**2 + c**2 - 0.6) * (1 if index % 2 else -1)
    return out.astype(np.float32, copy=False)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], unit_mm: float) -> Field:
    """Noise as it looks after registration to a template: slightly smoothed by interpolation."""
    return smooth_noise(rng, shape, 0.55 / unit_mm)


def make_subject(
    seed: int,
    scanner: Scanner,
    sequences: Sequence[str],
    frame: Frame | None = None,
    analytic: bool = False,
    healthy: bool = False,
    kind: Kind = "glioma",
) -> PhantomSubject:
    """Make a whole subject in memory.

    Parameters
    ----------
    seed : int
        The same seed gives the same anatomy on every scanner and, on the same scanner, bit-identical images.
    scanner : Scanner
    sequences : sequence of str
        Any of `ummgat.core.domain.SEQUENCES`.
    frame : Frame, optional
        Default: BraTS's grid at 1 mm. See `brats_frame`, `analytic_frame`.
    analytic : bool
        Nested ellipsoids instead of the atlas: milliseconds, for tests.
    healthy : bool
        No tumour.
    kind : "glioma" or "meningioma"
        What the tumour is.

    Returns
    -------
    PhantomSubject
        Freshly made arrays.
    """
    frame = brats_frame(1.0) if frame is None else frame
    body = make_body(seed, frame, analytic, healthy, kind)
    return assemble(body, {name: scan(body, scanner, name, seed) for name in sequences})


def assemble(body: Body, volumes: dict[str, NDArray[np.float32]]) -> PhantomSubject:
    """Put images and truth of one body together, in full arrays."""
    f = body.fractions
    stack = np.stack([f["wm"], f["gm"], f["dgm"], f["csf"], f["ncr"] + f["et"] + f["ed"], f["vessel"]])
    labels, tissue = np.zeros(body.frame.shape, np.uint8), np.zeros(body.frame.shape, np.uint8)
    brain = np.zeros(body.frame.shape, np.bool_)
    labels[body.box] = body.labels
    brain[body.box] = body.mask
    inside = np.zeros(body.mask.shape, np.uint8)
    inside[body.mask] = stack.argmax(0) + 1
    tissue[body.box] = inside
    return PhantomSubject(volumes, labels, brain, tissue, body.frame.grid)
