"""What makes centers differ: protocol, coil shading, noise, resolution and gain."""

from dataclasses import dataclass, replace

import numpy as np

from ummgat.phantom.signal import Protocol, protocol_of


@dataclass(frozen=True)
class Scanner:
    """One center's way of imaging. Two scanners render the same subject's anatomy differently."""

    center: str
    index: int
    tr_scale: float
    te_scale: float
    flip_scale: float
    t1_by_spin_echo: bool
    """T1-weighting by a spin echo (paler grey-white contrast) instead of a spoiled gradient echo."""
    bias: float
    """Standard deviation of the logarithm of the coil shading."""
    snr: float
    """Mean brain signal over noise standard deviation, for the four anatomical sequences."""
    blur_mm: float
    """In-plane point spread, full width at half maximum."""
    slice_mm: float
    """Slice thickness along the plane axis."""
    gain: float
    """Receiver gain: mean brightness of `make_subject`'s volumes."""

    def protocol(self, sequence: str) -> Protocol:
        """Return the settings of `sequence` on this scanner."""
        p = protocol_of(sequence)
        if self.t1_by_spin_echo and sequence in ("t1", "t1ce"):
            return replace(p, kind="se", tr=800 * self.tr_scale, te=12 * self.te_scale)
        # An inversion time nulls fluid at every repetition time, as technicians set it.
        tr = p.tr * self.tr_scale
        ti = 4160 * (np.log(2) - np.log1p(np.exp(-tr / 4160))) * 0.97 if p.kind == "ir" else p.ti
        return replace(p, tr=tr, te=p.te * self.te_scale, flip=p.flip * self.flip_scale, ti=float(ti))


def make_scanner(center: str, index: int, seed: int = 0) -> Scanner:
    """Make the scanner of the `index`-th center: even ones are sharp research scanners, odd ones older clinical ones.

    Parameters
    ----------
    center : str
    index : int
        Position of the center in the config; decides the type.
    seed : int
        Small differences between cohorts.

    Returns
    -------
    Scanner
        The same for the same arguments.
    """
    rng = np.random.default_rng([seed, index, 71])
    clinical = index % 2 == 1
    later = index // 2  # the third and fourth center are a little further off again

    def about(value: float, spread: float = 0.04) -> float:
        return float(value * np.exp(rng.normal(0, spread * (1 + later))))

    return Scanner(
        center=center,
        index=index,
        tr_scale=about(0.72 if clinical else 1.0),
        te_scale=about(0.80 if clinical else 1.0),
        flip_scale=about(1.0),
        t1_by_spin_echo=clinical,
        bias=about(0.16 if clinical else 0.08),
        snr=about(25 if clinical else 36),
        blur_mm=about(1.5 if clinical else 1.0),
        slice_mm=about(3.5 if clinical else 1.2),
        gain=about(620 if clinical else 350),
    )
