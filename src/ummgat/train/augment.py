"""How scanners and heads differ, for training: tone, shading and noise of a slice; small turns and shifts.

Everything is drawn from a given generator of random numbers, so that a batch stays a pure function of (seed, step).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.normalise import LEVEL

Floats = NDArray[np.float32]


class Tone(NamedTuple):
    """How one volume is shown: the same for all its planes."""

    gain: float
    """Contrast about ordinary tissue."""
    offset: float
    """Grey levels."""
    gamma: float


PLAIN = Tone(1.0, 0.0, 1.0)


def draw_tone(rng: np.random.Generator) -> Tone:
    """A scanner's contrast."""
    gain, gamma = np.exp(rng.uniform(np.log(0.75), np.log(1.33), 2))
    return Tone(float(gain), float(rng.uniform(-12, 12)), float(gamma**0.8))


def toned(x: Floats, tone: Tone) -> Floats:
    """Show slices (…, row, column) in [-1, 1] in another tone; background stays exactly -1, brain stays above it."""
    if tone == PLAIN:
        return x
    grey = (x + 1) * np.float32(127.5)
    shown = LEVEL * (np.maximum(grey, 1) / LEVEL) ** tone.gamma
    shown = LEVEL + tone.gain * (shown - LEVEL) + tone.offset
    return np.where(x > -1, np.clip(shown, 1, 255) / 127.5 - 1, -1).astype(np.float32)


def shaded(x: Floats, rng: np.random.Generator) -> Floats:
    """Add a coil's shading and a scanner's noise to slices (n, row, column) that lie above each other."""
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in x.shape[-2:])
    terms = np.stack(
        np.broadcast_arrays(rows[:, None], columns, rows[:, None] * columns, rows[:, None] ** 2, columns**2)
    )
    field = np.exp(np.tensordot(rng.normal(0, 0.06, 5).astype(np.float32), terms, 1))
    noise = rng.normal(0, abs(rng.normal(0, 2.5)), x.shape).astype(np.float32)
    shown = (x + 1) * 127.5 * field + noise
    return np.where(x > -1, np.clip(shown, 1, 255) / 127.5 - 1, -1).astype(np.float32)


class Move(NamedTuple):
    """An affine motion in the plane: where each row and column is taken from."""

    places: Floats
    """(2, row, column)."""


def draw_move(rng: np.random.Generator, shape: tuple[int, int]) -> Move:
    """A turn of up to 12 degrees, a scale of up to 12 % per axis and a shift of up to 3 % of the slice."""
    angle = np.radians(rng.uniform(-12, 12))
    scales = np.exp(rng.uniform(-0.12, 0.12, 2))
    shift = rng.uniform(-0.03, 0.03, 2) * shape
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(scales)
    middle = (np.array(shape) - 1) / 2
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).reshape(2, -1)
    places = turn @ (grid - middle[:, None]) + (middle + shift)[:, None]
    return Move(places.reshape(2, *shape).astype(np.float32))


def moved(x: Floats, move: Move, background: float) -> Floats:
    """Move slices (n, row, column) whose background is exactly `background`; their brain is interpolated without it."""
    out = np.empty_like(x)
    for i, plane in enumerate(x):
        inside = plane != background
        share = ndimage.map_coordinates(inside.astype(np.float32), move.places, order=1)
        values = ndimage.map_coordinates(np.where(inside, plane - background, 0), move.places, order=1)
        out[i] = np.where(share >= 0.5, values / np.maximum(share, 0.5) + background, background)
    return out


def moved_labels(labels: Floats, move: Move) -> Floats:
    """The same for one slice of labels, nearest neighbour."""
    return np.asarray(ndimage.map_coordinates(labels, move.places, order=0), np.float32)
