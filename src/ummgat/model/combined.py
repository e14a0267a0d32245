"""One answer out of several: sources weighted by how well each is known to do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ummgat.core.domain import Domain
from ummgat.model.weights import TrainedModel, unpaired_score


def fusion_weights(
    model: TrainedModel, center: str, target: Domain, sources: Sequence[str], mode: str
) -> tuple[NDArray[np.float64], str]:
    """Weights of sources when fused: inverse square of the stored error of each direction; equal where one is unknown."""
    rows = {
        row["source"]: row
        for row in model.criteria.get("directions", [])
        if row["target"] == str(target) and row["mode"] == mode
    }
    own = [rows.get(str(Domain(center, q))) for q in sources]
    found = [row for row in own if row is not None]
    if len(found) < len(own):
        return np.full(len(own), 1 / len(own)), "equal: not every direction was validated"
    by_truth = all(row["mae"] is not None for row in found)
    errors = np.array([row["mae"] if by_truth else unpaired_score(row) for row in found])
    weights = 1 / np.maximum(errors, 1e-3) ** 2
    return weights / weights.sum(), "true images of selection subjects" if by_truth else "unpaired criteria"


def combined(answers: Sequence[NDArray[np.uint8]], weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Weighted mean of the answers that have brain at a voxel."""
    if len(answers) == 1:
        return answers[0]
    total = np.zeros(answers[0].shape, np.float32)
    weight = np.zeros(answers[0].shape, np.float32)
    for answer, w in zip(answers, weights, strict=True):
        total += np.float32(w) * answer
        weight += np.float32(w) * (answer > 0)
    mean = total / np.maximum(weight, 1e-6)
    return np.where(weight > 0, np.clip(np.rint(mean), 1, 255), 0).astype(np.uint8)
