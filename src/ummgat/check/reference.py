"""What is usual: limits and distributions that findings are judged by, learnt from the cohort that the checks were
taught on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Typical = tuple[float, float]
"""Median and spread (1.4826 times the median absolute deviation), of logarithms."""

_COPY = 0.97
"""Correlation of ranks. Different sequences of one brain stay below 0.91 in the development cohort and the phantom."""
_ROOM = 0.5
"""How far beyond the usual range, in ranges, a number may lie."""
_CUT_ROOM = 0.05
_MORE_ROOM = {"brain_ml": 0.0, "mirror": 0.02}
_ALARMS = 0.01
"""Share of sequences of the cohort itself that the limits of registration may flag."""
_GROSS = 2.0
"""How many times as far as that `information` must lie."""


class Reference(BaseModel):
    """Limits of the checks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cohort: str
    """Whose images these are."""
    n_subjects: int
    margin: float
    """Log-probability of the stated sequence less that of the likeliest other one, below which it is doubted."""
    swap: float
    """Sum of two sequences' margins against each other, below which they are thought to be swapped."""
    copy_correlation: float = _COPY
    outline: dict[str, tuple[float, float]]
    """Number of `shape.outline` → usual range, with room."""
    rim: dict[str, float]
    """Sequence → highest usual `shape.rim`, with room."""
    content: dict[str, float]
    """Number of `content.content` → highest usual."""
    pairs: dict[str, dict[str, Typical]]
    """`t1+t2` → `information` and `peak`."""
    peak: float
    """Mean deviation of a sequence's `peak` from what is usual, in spreads, below which it is doubted."""
    information: float
    """The same of `information`. Far lower: noise lowers it too, and only a gross failure this much."""
    unlike: float
    """Distance from the cohort above which a study is called unlike it."""
    rates: dict[str, float]
    """Check → share of false alarms among held-out images or studies of the cohort."""


def typical(values: Sequence[float]) -> Typical:
    """Median and spread of the logarithms of positive numbers."""
    logs = np.log(np.maximum(np.asarray(values, np.float64), 1e-6))
    middle = float(np.median(logs))
    return middle, float(1.4826 * np.median(np.abs(logs - middle))) + 1e-3


def deviation(value: float, usual: Typical) -> float:
    """How many spreads a number lies above what is usual."""
    return (float(np.log(max(value, 1e-6))) - usual[0]) / usual[1]


def deviations(
    pairs: Mapping[str, Mapping[str, float]], usual: Mapping[str, Mapping[str, Typical]], what: str
) -> dict[str, float]:
    """Mean deviation of each sequence over the pairs it is in.

    Parameters
    ----------
    pairs : mapping of `t1+t2` → numbers of `pairs.compare`
    usual : mapping of `t1+t2` → number → Typical
    what : str
        `information` or `peak`.

    Returns
    -------
    dict of sequence → float
        Without sequences of which no pair is known.
    """
    found: dict[str, list[float]] = {}
    for pair, numbers in pairs.items():
        if pair in usual:
            for sequence in pair.split("+"):
                found.setdefault(sequence, []).append(deviation(numbers[what], usual[pair][what]))
    return {sequence: float(np.mean(values)) for sequence, values in found.items()}


def usual_pairs(measured: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Typical]]:
    """What is usual for each pair among these studies."""
    names = sorted({pair for study in measured for pair in study["pairs"]})
    return {
        pair: {
            what: typical([study["pairs"][pair][what] for study in measured if pair in study["pairs"]])
            for what in ("information", "peak")
        }
        for pair in names
    }


def learn_limits(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Those fields of `Reference` that need no network.

    Parameters
    ----------
    measured : sequence of mappings
        See `measure.measure`, of studies in which nothing is wrong.
    """
    pairs = usual_pairs(measured)
    every = {
        what: [v for study in measured for v in deviations(study["pairs"], pairs, what).values()]
        for what in ("information", "peak")
    }
    outlines = {name: np.array([study["outline"][name] for study in measured]) for name in measured[0]["outline"]}
    sequences = sorted({name for study in measured for name in study["images"]})
    rims = {q: np.array([s["images"][q]["rim"] for s in measured if q in s["images"]]) for q in sequences}
    return {
        "outline": {name: _range(values, name) for name, values in outlines.items()},
        "rim": {name: _range(values, "rim")[1] for name, values in rims.items()},
        "content": most_content(measured),
        "pairs": pairs,
        "peak": float(np.quantile(every["peak"], _ALARMS)) if every["peak"] else -np.inf,
        "information": _GROSS * float(np.quantile(every["information"], _ALARMS)) if every["information"] else -np.inf,
    }


def most_content(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Highest value of each number of `content.content` among studies."""
    found: dict[str, float] = {}
    for study in measured:
        for name, value in study["content"].items():
            found[name] = max(value, found.get(name, 0.0))
    return found


def content_rate(measured: Sequence[Mapping[str, Any]]) -> float:
    """Share of studies that exceed the highest of all others in some number."""
    beyond = []
    for i, study in enumerate(measured):
        usual = most_content([other for j, other in enumerate(measured) if j != i])
        beyond.append(any(value > usual.get(name, np.inf) for name, value in study["content"].items()))
    return float(np.mean(beyond))


def _range(values: NDArray[np.float64], name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = _ROOM * (high - low) + _MORE_ROOM.get(name, _CUT_ROOM)
    return low - room, high + room
