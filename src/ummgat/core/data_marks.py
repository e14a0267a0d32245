"""Fingerprints of the studies that a run learns from: a checkpoint keeps them, and a run goes on with the same voxels
only.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.core.study import Study

log = logging.getLogger(__name__)


def digest(volume: NDArray[np.uint8]) -> str:
    """First 16 hex digits of the SHA-256 of a volume's voxels."""
    return hashlib.sha256(np.ascontiguousarray(volume).tobytes()).hexdigest()[:16]


def study_mark(study: Study, sequences: Iterable[str]) -> str:
    """Sixteen digits that change with anything a run learns of a study: center, grid, these sequences, the
    annotation.
    """
    labels = study.labels()
    told = [
        study.center,
        study.grid.shape,
        np.round(study.grid.matrix, 6).tolist(),
        {sequence: digest(study.volume(sequence)) for sequence in sorted(sequences)},
        None if labels is None else [digest(labels), study.record.labels_regions],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def require_same_data(checkpoint: Path, before: object, now: Mapping[str, str], changed_data: bool) -> bool:
    """Compare the studies of a checkpoint with those that are to go on.

    Parameters
    ----------
    checkpoint : Path
        For the message.
    before : mapping of subject → `study_mark`
        What the checkpoint says; None in one of an earlier version, which cannot be compared.
    now : mapping of subject → `study_mark`
    changed_data : bool
        Go on all the same.

    Returns
    -------
    bool
        Whether they differ.

    Raises
    ------
    ValueError
        They differ, and nobody said that they may.
    """
    if not isinstance(before, Mapping):
        log.warning("%s does not say what it was trained on: the data are not compared", checkpoint)
        return False
    differences = {
        "changed": sorted(subject for subject in now if subject in before and before[subject] != now[subject]),
        "new": sorted(set(now) - set(before)),
        "gone": sorted(set(before) - set(now)),
    }
    if not any(differences.values()):
        return False
    if not changed_data:
        found = "; ".join(f"{len(who)} {what} ({_few(who)})" for what, who in differences.items() if who)
        raise ValueError(
            f"Checkpoint was trained on other data: {checkpoint}. Found {found} of {len(now)} subjects; expected the "
            f"voxels and annotations that the run began with. Bring them back, choose another output folder, or pass "
            f"--changed-data to go on with the present ones."
        )
    return True


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
