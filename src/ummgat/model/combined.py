"""One answer out of several: sources weighted by how well each is known to do."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.domain import Domain
from ummgat.model.translator import Translator
from ummgat.model.weights import TrainedModel, unpaired_score


class Answered(NamedTuple):
    """A generated image and what it was made from."""

    target: Domain
    image: NDArray[np.uint8]
    """(plane, row, column)."""
    answers: Sequence[NDArray[np.uint8]]
    """Of each source alone, like `image`."""
    weights: Mapping[str, float]
    """Sequence of each source → its share, in the order of `answers`."""
    basis: str
    """What the shares rest on."""
    posterior: NDArray[np.float32] | None
    """(4, plane, row, column) of lesion labels, like `image`; None for a model that sees none."""

    def at(self, planes: Sequence[int]) -> "Answered":
        """The same at some planes alone, in their order."""
        chosen = list(planes)
        return self._replace(
            image=self.image[chosen],
            answers=[answer[chosen] for answer in self.answers],
            posterior=None if self.posterior is None else self.posterior[:, chosen],
        )


def answered(
    translator: Translator,
    target: Domain,
    codes: Mapping[str, tuple[Tensor, Tensor]],
    mode: str,
    flicker: float,
    only: Sequence[int] | None = None,
) -> Answered:
    """Generate `target` from some of a translator's sources: pool what they see of lesions, translate each, combine.

    Parameters
    ----------
    translator : Translator
    target : Domain
    codes : mapping of sequence → (Tensor (code_dim,), Tensor (code_dim,))
        Of target and source, for each source that counts.
    mode : str
        Where the codes come from; stored errors of this mode weigh the sources.
    flicker : float
        See `ummgat.model.slice_profile.settled`.
    only : sequence of int, optional
        Planes to translate; all else is empty.
    """
    posterior = translator.posterior({q: source for q, (_, source) in codes.items()}, only)
    answers = [translator.translate(q, target, pair, flicker, posterior, only) for q, pair in codes.items()]
    weights, basis = fusion_weights(translator.model, translator.center, target, list(codes), mode)
    shares = {q: float(w) for q, w in zip(codes, weights, strict=True)}
    return Answered(target, combined(answers, weights), answers, shares, basis, posterior)


def fusion_weights(
    model: TrainedModel, center: str, target: Domain, sources: Sequence[str], mode: str
) -> tuple[NDArray[np.float64], str]:
    """Weights of sources when fused: inverse square of the stored error of each direction; equal where one is
    unknown.
    """
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
