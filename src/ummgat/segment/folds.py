"""Cross-fitting: one segmenter per fold, so that every subject is segmented by a network that never saw it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ummgat.segment.unet import UnetSegmenter, load_segmenter

FILE = "segmenter.safetensors"


def folds_of(subjects: Sequence[str], n: int, seed: int) -> list[list[str]]:
    """Deal subjects into `n` parts of equal size (give or take one), at random by `seed`, whatever their order.

    Raises
    ------
    ValueError
        With fewer than two parts, or more parts than subjects.
    """
    if not 2 <= n <= len(subjects):
        raise ValueError(
            f"Cannot cross-fit: --folds. Found {n} folds of {len(subjects)} subjects; expected 2 to {len(subjects)}. "
            "Change the number of folds."
        )
    order = np.random.default_rng(seed).permutation(len(subjects))
    names = sorted(subjects)
    return [sorted(names[i] for i in order[fold::n]) for fold in range(n)]


@dataclass(frozen=True)
class CrossFitted:
    """Segmenters of all folds. `of(subject)` is the one that held this subject back."""

    members: tuple[UnetSegmenter, ...]

    @property
    def sequences(self) -> tuple[str, ...]:
        """What they must be given."""
        return self.members[0].sequences

    @property
    def regions(self) -> Literal["multi", "wt"]:
        """What their labels mean."""
        return self.members[0].regions

    @property
    def hash(self) -> str:
        """Of all files."""
        return " ".join(member.hash for member in self.members)

    def of(self, subject: str) -> UnetSegmenter:
        """Return the segmenter that held `subject` back.

        Raises
        ------
        ValueError
            If none did, or more than one.
        """
        found = [member for member in self.members if subject in member.training["held_out"]]
        if len(found) != 1:
            raise ValueError(
                f"Subject was not held back by exactly one fold: {subject}. Found {len(found)} folds; expected 1. "
                f"Cross-fit with a draw that names this subject, or leave it out."
            )
        return found[0]


def load_folds(folder: Path, device: torch.device | None = None) -> CrossFitted:
    """Read `fold1/segmenter.safetensors` and so on, as `ummgat train-segmenter --folds` writes them.

    Raises
    ------
    FileNotFoundError, ValueError
        No folds, some missing, or folds of different runs.
    """
    paths = sorted(folder.glob(f"fold*/{FILE}"), key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    if not paths:
        raise FileNotFoundError(
            f"Segmenter is missing: {folder}. Found no fold*/{FILE}; expected the folder of `ummgat train-segmenter "
            "--folds`, or a segmenter file. Choose one of these."
        )
    members = tuple(load_segmenter(path, device) for path in paths)
    alike = len({(m.sequences, m.regions, m.training.get("folds")) for m in members}) == 1
    held = [s for m in members for s in m.training.get("held_out", ())]
    if not alike or members[0].training.get("folds") != len(members) or len(set(held)) < len(held):
        raise ValueError(
            f"Folds do not belong together: {folder}. Found {len(members)} files; expected "
            f"{members[0].training.get('folds', 'those of one cross-fitting')}, of one run, each with subjects of its "
            f"own. Finish the cross-fitting: the same command goes on where it was."
        )
    return CrossFitted(members)
