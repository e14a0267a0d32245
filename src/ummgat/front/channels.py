"""What a segmenter is given for every sequence it expects: the scan, a stand-in that is marked as one, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ummgat.completion.fill import Request, fill
from ummgat.core.domain import Domain
from ummgat.core.study import Study
from ummgat.model.weights import TrainedModel

Policy = Literal["generate", "empty", "copy"]
"""What stands in for a missing sequence: an image made by the model, zeros, or the scan nearest in contrast."""

POLICIES: tuple[Policy, ...] = get_args(Policy)

Kind = Literal["acquired", "generated", "copied", "empty"]

NEAREST = {
    "t1": ("t1ce", "flair", "t2"),
    "t1ce": ("t1", "flair", "t2"),
    "t2": ("flair", "t1ce", "t1"),
    "flair": ("t2", "t1", "t1ce"),
}
"""Missing sequence → scans to copy, nearest in contrast first. A fixed order, chosen by no result."""


@dataclass(frozen=True)
class Channel:
    """One sequence as the segmenter gets it."""

    sequence: str
    kind: Kind
    volume: NDArray[np.uint8]
    """(plane, row, column); brain 1–255, background 0; all 0 if empty."""
    sources: tuple[str, ...] = ()
    """Sequences of the study it was made from; none if it was acquired or is empty."""
    note: str = ""
    """Why it is empty."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Of a generated one: its sidecar, see `ummgat.completion.fill`."""
    reliability: NDArray[np.uint8] | None = None
    """Of a generated one: percent, 0 outside the brain."""


def check_policy(policy: str) -> None:
    """Raise ValueError unless `policy` is one of `POLICIES`."""
    if policy not in POLICIES:
        raise ValueError(
            f"Unknown policy: --policy. Found {policy!r}; expected one of {', '.join(POLICIES)}. Choose one of these."
        )


def channels(
    study: Study,
    sequences: Sequence[str],
    policy: Policy,
    model: TrainedModel | None,
    center: str,
    with_reliability: bool = True,
) -> list[Channel]:
    """Collect what a segmenter is to be given.

    Parameters
    ----------
    study : Study
        Prepared. Images that `ummgat complete` generated for it before are taken as they are, and stay marked.
    sequences : sequence of str
        What the segmenter takes.
    policy : "generate", "empty" or "copy"
    model : TrainedModel or None
        Needed to generate.
    center : str
        Of the model, as whose the study is taken.
    with_reliability : bool
        Also say how far to trust each generated voxel; that takes several times as long.

    Returns
    -------
    list of Channel
        In the order of `sequences`.

    Raises
    ------
    ValueError
        No acquired sequence to start from, or a gap that the model cannot fill for this center.
    """
    scans = {q: np.array(study.volume(q)) for q in study.acquired}
    usable = [q for q in scans if q in sequences or (policy == "generate" and _known(model, center, q))]
    if not usable:
        raise ValueError(
            f"Nothing to segment from: {study.folder}. Found {', '.join(scans) or 'no acquired sequence'}; expected at "
            f"least one of {', '.join(sequences)}. Add one of these."
        )
    found = {q: Channel(q, "acquired", scans[q]) for q in sequences if q in scans}
    found |= {q: _earlier(study, q) for q in sequences if q in study.sequences and q not in found}
    missing = [q for q in sequences if q not in found]
    if policy == "generate" and missing:
        found |= _generated(study, scans, missing, model, center, with_reliability)
    for sequence in missing:
        if sequence in found:
            continue
        source = next((q for q in NEAREST.get(sequence, ()) if q in scans), None) if policy == "copy" else None
        if source is not None:
            found[sequence] = Channel(sequence, "copied", scans[source], (source,))
        else:
            note = "the model knows no such sequence of this center" if policy == "generate" else ""
            found[sequence] = Channel(sequence, "empty", np.zeros(study.shape, np.uint8), note=note)
    return [found[q] for q in sequences]


def _known(model: TrainedModel | None, center: str, sequence: str) -> bool:
    return model is not None and Domain(center, sequence) in model.table


def _earlier(study: Study, sequence: str) -> Channel:
    """An image that the study came with and that no scanner made."""
    record = study.record.images[sequence]
    kind: Kind = "copied" if record.kind == "copied" else "generated"
    sources = tuple(Domain.parse(name).sequence for name in record.provenance.get("sources", ()))
    return Channel(sequence, kind, np.array(study.volume(sequence)), sources, provenance=record.provenance)


def _generated(
    study: Study,
    scans: dict[str, NDArray[np.uint8]],
    missing: Sequence[str],
    model: TrainedModel | None,
    center: str,
    with_reliability: bool,
) -> dict[str, Channel]:
    assert model is not None, "generating needs a model"
    if center not in model.table.centers:
        raise ValueError(
            f"Model does not know the study's center: {study.subject}. Found {center}; expected one of "
            f"{', '.join(model.table.centers)}. Say with --center which of these it resembles, or choose another "
            f"--policy."
        )
    targets = tuple(q for q in missing if _known(model, center, q))
    if not targets:
        return {}
    made = fill(model, scans, center, Request(targets=targets, with_reliability=with_reliability))
    return {
        image.target.sequence: Channel(
            image.target.sequence,
            "generated",
            image.volume,
            tuple(Domain.parse(name).sequence for name in image.provenance["sources"]),
            provenance=image.provenance,
            reliability=image.reliability,
        )
        for image in made
    }
