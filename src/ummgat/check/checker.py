"""The learnt checks as one file: the classifier, what its features usually are, and every limit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from ummgat.check.network import CLASSES, SequenceNet
from ummgat.check.reference import Reference
from ummgat.core.tensors import file_hash, load_finite, save_tensors, with_prefix, without_prefix
from ummgat.core.version import __version__

FORMAT = "ummgat-checker-1"

_DIRECTIONS = 2
"""Directions in which the features of a cohort spread and that are told apart from the rest. With 19 subjects more of
them separated held-out subjects from simulated children less well, see docs/experiments.md."""

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Cloud:
    """Where the features of one sequence lie in the training cohort: a normal distribution with a few long axes."""

    middle: Features
    """(d,)"""
    axes: Features
    """(k, d), orthonormal."""
    variances: Features
    """(k,)"""
    rest: float
    """Variance along every other direction."""

    @classmethod
    def of(cls, features: Features) -> "Cloud":
        """Fit to (n, d), n at least k + 2."""
        middle = features.mean(0)
        _, widths, axes = np.linalg.svd(features - middle, full_matrices=False)
        variances = widths**2 / (len(features) - 1)
        k = min(_DIRECTIONS, len(features) - 2)
        rest = float(variances[k:].sum() / (features.shape[1] - k)) + 1e-8
        return cls(middle, axes[:k], variances[:k].astype(np.float32), rest)

    def distance(self, features: Features) -> float:
        """Mahalanobis distance of (d,), divided by √d."""
        away = (features - self.middle).astype(np.float64)
        along = self.axes @ away
        squared = (along**2 / (self.variances + self.rest)).sum() + (away @ away - along @ along) / self.rest
        return float(np.sqrt(max(squared, 0.0) / len(away)))


@dataclass(frozen=True)
class Checker:
    """Ready for use."""

    net: SequenceNet
    clouds: dict[str, Cloud]
    """By sequence."""
    reference: Reference
    hash: str = ""
    """Of the file it was read from; empty if it was not."""

    def distance(self, sequence: str, features: Features) -> float:
        """How far features of an image lie from those of the training cohort: about 1 within it, no upper end."""
        return self.clouds[sequence].distance(features)


def save_checker(path: Path, checker: Checker) -> None:
    """Write as 16-bit floats, which change no probability by more than a few thousandths."""
    tensors: dict[str, Tensor] = {
        k: v.half() if v.is_floating_point() else v for k, v in with_prefix("net", checker.net.state_dict()).items()
    }
    for name, cloud in checker.clouds.items():
        arrays = {
            "middle": cloud.middle,
            "axes": cloud.axes,
            "variances": cloud.variances,
            "rest": np.array([cloud.rest]),
        }
        tensors |= with_prefix(f"clouds.{name}", {k: torch.tensor(v, dtype=torch.float32) for k, v in arrays.items()})
    metadata = {"format": FORMAT, "version": __version__, "reference": checker.reference.model_dump(mode="json")}
    save_tensors(path, tensors, metadata)


def load_checker(path: Path) -> Checker:
    """Read a file that `save_checker` wrote.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, damaged, or another kind of file.
    """
    tensors, metadata = load_finite(path, FORMAT)
    net = SequenceNet()
    try:
        reference = Reference.model_validate(metadata["reference"])
        net.load_state_dict(without_prefix("net", tensors))
        clouds = {name: _cloud(without_prefix(f"clouds.{name}", tensors)) for name in CLASSES}
    except (RuntimeError, KeyError, ValidationError) as error:
        raise ValueError(
            f"Checks do not fit this version: {path}. Found {error}; expected what version {__version__} writes. Use "
            f"the file that came with this version, or teach the checks again."
        ) from error
    return Checker(net.requires_grad_(False).eval(), clouds, reference, file_hash(path))


def _cloud(tensors: dict[str, Tensor]) -> Cloud:
    return Cloud(
        tensors["middle"].numpy(), tensors["axes"].numpy(), tensors["variances"].numpy(), float(tensors["rest"][0])
    )
