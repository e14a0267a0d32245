"""Everything that is measured in one study, as plain numbers that `study.json` can hold."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.check.checker import Checker
from ummgat.check.content import content
from ummgat.check.network import CLASSES, look_at
from ummgat.check.pairs import compare
from ummgat.check.shape import outline, rim
from ummgat.check.slices import standard_slices
from ummgat.core.data_marks import digest
from ummgat.core.study import Study
from ummgat.core.volume import Grid

Volumes = dict[str, NDArray[np.uint8]]


def measure(study: Study, checker: Checker) -> dict[str, Any]:
    """Measure the acquired sequences of a study.

    Returns
    -------
    dict
        `images`: sequence → `digest` of its voxels, `rim`, and for those of `CLASSES` `probabilities` and `unlike`, the
        distance from the training cohort; `outline`: see `shape.outline`, of all brains together; `content`: see
        `content.content`; `pairs`: `t1+t2` → see `pairs.compare`.
    """
    volumes = {name: np.array(study.volume(name)) for name in study.acquired}
    return measure_volumes(volumes, study.grid, checker)


def measure_volumes(volumes: Volumes, grid: Grid, checker: Checker) -> dict[str, Any]:
    """`measure` of volumes (plane, row, column) in memory; empty ones raise ValueError."""
    images: dict[str, dict[str, Any]] = {}
    for name, volume in volumes.items():
        images[name] = {"digest": digest(volume), "rim": _rounded(rim(volume, grid))}
        if name in CLASSES:
            logs, features = look_at(checker.net, standard_slices(volume, grid))
            images[name]["probabilities"] = {c: _rounded(float(p)) for c, p in zip(CLASSES, logs.exp(), strict=True)}
            images[name]["unlike"] = _rounded(checker.distance(name, features.numpy()))
    brain = np.logical_or.reduce([volume > 0 for volume in volumes.values()]).T
    return {
        "images": images,
        "outline": {name: _rounded(value) for name, value in outline(brain, grid).items()},
        "content": {name: _rounded(value) for name, value in content(volumes, grid).items()},
        "pairs": {
            f"{a}+{b}": {name: _rounded(value) for name, value in compare(volumes[a], volumes[b], grid).items()}
            for a, b in combinations(volumes, 2)
        },
    }


def _rounded(value: float) -> float:
    """Six digits: enough to judge by, few enough to read."""
    return float(f"{value:.6g}")
