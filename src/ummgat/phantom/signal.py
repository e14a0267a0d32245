"""From tissue to brightness: the textbook signal equation of every sequence.

All times in ms, diffusivities in 10⁻³ mm²/s, b-values in s/mm², CBF in mL/100 g/min.
"""

import math
from dataclasses import dataclass, fields, replace

from ummgat.core.domain import check_sequence


@dataclass(frozen=True)
class Tissue:
    """What one tissue brings to every signal equation."""

    pd: float
    """Proton density relative to water."""
    t1: float
    t2: float
    t2_star: float
    adc: float
    """Mean diffusivity."""
    fa: float
    """Anisotropy between 0 and 1; sets axial and radial diffusivity around `adc`."""
    cbf: float
    uptake: float = 0.0
    """How much contrast agent it takes up: added relaxation rate 1/T1 in 1/s, in t1ce only."""


# Healthy tissue at 3 T, rounded: T1, T2 of wm and gm Wansapura 1999 (JMRI 9:531; wm 832/80, gm 1331/110) and Stanisz
# 2005 (MRM 54:507; T2 69 and 99, blood 1932/275); csf T1 Lin 2001 (MRM 45:893; 4163); T2* Peters 2007 (MRI 25:748);
# proton density Gelman 2001 (MRM 45:71); ADC Helenius 2002 (AJNR 23:194); CBF Alsop 2015 (MRM 73:102). Deep grey lies
# between wm and gm, with T2 and T2* shortened by iron. Tumour values are typical, not measured: T1 and T2 of solid
# tumour and of oedema about as in Badve 2017 (AJNR 38:89), ADC of glioblastoma as is usual in the DWI literature,
# uptake so that T1 falls to 400–600 ms some minutes after a single dose.
TISSUE_TABLE = {
    "wm": Tissue(0.70, 840, 74, 50, 0.70, 0.60, 22),
    "gm": Tissue(0.82, 1350, 100, 62, 0.85, 0.12, 60),
    "dgm": Tissue(0.79, 1180, 80, 34, 0.76, 0.20, 52),
    "csf": Tissue(1.00, 4160, 1500, 700, 3.00, 0.02, 0.5),
    "ncr": Tissue(0.95, 2900, 280, 38, 1.90, 0.05, 4),
    "et": Tissue(0.86, 1450, 128, 70, 1.05, 0.12, 95, uptake=1.25),
    "ed": Tissue(0.87, 1400, 175, 110, 1.50, 0.16, 15),
    "vessel": Tissue(0.80, 1930, 120, 9, 1.40, 0.05, 75, uptake=1.9),
}


@dataclass(frozen=True)
class Protocol:
    """Acquisition settings of one sequence."""

    kind: str
    """`gre` spoiled gradient echo, `se` spin echo, `ir` inversion recovery, `dw` diffusion, `asl` perfusion."""
    tr: float
    te: float
    flip: float = 90.0
    ti: float = 0.0
    b: float = 0.0
    contrast: bool = False


PROTOCOLS = {
    "t1": Protocol("gre", tr=20, te=4, flip=24),
    "t1ce": Protocol("gre", tr=20, te=4, flip=24, contrast=True),
    "t2": Protocol("se", tr=4500, te=92),
    "flair": Protocol("ir", tr=9000, te=125, ti=2500),
    "swi": Protocol("gre", tr=30, te=24, flip=15),
    "dwi": Protocol("dw", tr=6000, te=80, b=1000),
    "asl": Protocol("asl", tr=4500, te=14, ti=1800),
    "hardi": Protocol("dw", tr=7000, te=72, b=3000),
}
"""Settings of the first center; a `Scanner` scales them."""


def signal(tissue: Tissue, protocol: Protocol) -> float:
    """Signal of a pure voxel of `tissue`, relative to fully relaxed water.

    Source: the standard equations, e.g. Bernstein, King & Zhou, Handbook of MRI Pulse Sequences (2004): spoiled
    gradient echo; spin echo; inversion recovery, magnitude; powder-averaged diffusion of an axially symmetric tensor;
    pulsed ASL difference (Buxton 1998), from which the labelled blood's decay and inflow are kept.
    """
    rate = 1000 / tissue.t1 + (tissue.uptake if protocol.contrast else 0.0)
    t1 = 1000 / rate
    if protocol.kind == "gre":
        angle = math.radians(protocol.flip)
        e1 = math.exp(-protocol.tr / t1)
        level = math.sin(angle) * (1 - e1) / (1 - math.cos(angle) * e1)
        return tissue.pd * level * math.exp(-protocol.te / tissue.t2_star)
    decay = tissue.pd * math.exp(-protocol.te / tissue.t2)
    recovered = 1 - math.exp(-protocol.tr / t1)
    if protocol.kind == "se":
        return decay * recovered
    if protocol.kind == "ir":
        return decay * abs(1 - 2 * math.exp(-protocol.ti / t1) + math.exp(-protocol.tr / t1))
    if protocol.kind == "dw":
        return decay * recovered * _powder(protocol.b / 1000, tissue.adc, tissue.fa)
    if protocol.kind == "asl":
        inflow = tissue.cbf / 60 * math.exp(-protocol.ti / 1650) * (1 - math.exp(-protocol.ti / 900))
        return tissue.pd * inflow + 0.004
    raise ValueError(
        f"Unknown kind of sequence: protocol. Found {protocol.kind!r}; expected gre, se, ir, dw or asl. This is a bug."
    )


def _powder(b: float, adc: float, fa: float) -> float:
    """Mean over directions of exp(−b D) for axial/radial diffusivities spread around `adc` by `fa`."""
    axial, radial = adc * (1 + 1.3 * fa), adc * (1 - 0.65 * fa)
    spread = math.sqrt(max(b * (axial - radial), 1e-9))
    return math.exp(-b * radial) * math.sqrt(math.pi) / 2 * math.erf(spread) / spread


def protocol_of(sequence: str) -> Protocol:
    """Return the settings of `sequence`; ValueError if there is no such sequence."""
    return PROTOCOLS[check_sequence(sequence, "phantom")]


def scaled(tissue: Tissue, **factors: float) -> Tissue:
    """`tissue` with some parameters multiplied, e.g. `scaled(t, t1=1.05)`."""
    known = {field.name for field in fields(Tissue)}
    return replace(tissue, **{name: getattr(tissue, name) * f for name, f in factors.items() if name in known})
