"""Teach the checks on a cohort, and choose their limits by subjects that were held out in turn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from ummgat.check.checker import Checker, Cloud
from ummgat.check.judge import margins, unlikeness
from ummgat.check.measure import measure
from ummgat.check.network import CLASSES, SequenceNet, look_at
from ummgat.check.reference import Reference, content_rate, learn_limits
from ummgat.check.slices import standard_slices
from ummgat.check.training import Labelled, TrainingSettings, train_network
from ummgat.core.study import Study

FOLDS = 4
_ALARMS = 0.025
"""Share of held-out images or pairs that a limit of the sequence check may flag."""
_UNLIKE_ALARMS = 0.05

OnStep = Callable[[str, int, float], None]
"""(which network, steps done, loss)."""

Planes = dict[str, dict[str, Tensor]]
"""Subject → sequence → planes."""


@dataclass
class HeldOut:
    """What networks that never saw a subject say of it."""

    stated: list[float]
    """Margin of each image under its own name against the likeliest other."""
    renamed: list[float]
    """The same under each wrong name."""
    pairs: list[float]
    """Sum of margins of each two sequences of a subject, against each other."""
    swapped: list[float]
    """The same with their names swapped."""
    distances: list[float]
    """Of each subject."""


def teach(
    studies: Sequence[Study],
    also: Sequence[Study] = (),
    described: str = "the cohort of the checks",
    settings: TrainingSettings | None = None,
    on_step: OnStep | None = None,
) -> tuple[Checker, HeldOut]:
    """Train one network per fold and one on everything; limits come from the folds.

    Parameters
    ----------
    studies : sequence of Study
        Training subjects, nothing wrong with them, at least `FOLDS` with every sequence of `CLASSES`. They say what is
        usual.
    also : sequence of Study
        From which only the looks of sequences are learnt, such as phantoms.
    described : str
        For findings: "The study is unlike <described>".
    settings : TrainingSettings, optional
    on_step : callable, optional

    Returns
    -------
    Checker, HeldOut

    Raises
    ------
    ValueError
        Too few studies, or a sequence that none has.
    """
    subjects = sorted(study.subject for study in studies)
    if len(subjects) < 3 * FOLDS:
        raise ValueError(
            f"Too few studies to teach the checks. Found {len(subjects)}; expected at least {3 * FOLDS}, since what is "
            f"usual must be known. Add studies."
        )
    planes, further = _planes(studies), list(_labelled(_planes(also)))

    def trained(which: str, left_out: Sequence[str]) -> SequenceNet:
        kept = {s: p for s, p in planes.items() if s not in left_out}
        step = None if on_step is None else lambda done, loss: on_step(which, done, loss)
        return train_network(list(_labelled(kept)), further, settings, step)

    held = HeldOut([], [], [], [], [])
    for fold in range(FOLDS):
        left_out = subjects[fold::FOLDS]
        net = trained(f"fold {fold + 1}", left_out)
        clouds = _clouds(net, {s: p for s, p in planes.items() if s not in left_out})
        for subject in left_out:
            _ask(net, clouds, planes[subject], held)
    net = trained("all", [])
    margin, false_name = _threshold(held.stated, _ALARMS)
    swap, false_swap = _threshold(held.pairs, _ALARMS)
    unlike = float(np.quantile(held.distances, 1 - _UNLIKE_ALARMS))
    rates = {
        "sequence": false_name,
        "swap": false_swap,
        "sequence missed": float(np.mean(np.array(held.renamed) >= margin)),
        "swap missed": float(np.mean(np.array(held.swapped) >= swap)),
        "unlike": float(np.mean(np.array(held.distances) > unlike)),
    }
    clouds = _clouds(net, planes)
    blank = Reference(
        cohort=described, n_subjects=len(subjects), margin=margin, swap=swap, outline={}, rim={}, content={}, pairs={},
        information=-1e9, peak=-1e9, unlike=unlike, rates=rates,
    )  # fmt: skip
    measured = [measure(study, Checker(net, clouds, blank)) for study in studies]
    known = blank.model_copy(update=learn_limits(measured) | {"rates": rates | {"content": content_rate(measured)}})
    return Checker(net, clouds, known), held


def _threshold(values: Sequence[float], share: float) -> tuple[float, float]:
    """A limit below which at most `share` of `values` lie, never above 0, and the share that does."""
    limit = min(0.0, float(np.quantile(values, share)))
    return limit, float(np.mean(np.array(values) < limit))


def _planes(studies: Sequence[Study]) -> Planes:
    return {
        study.subject: {
            name: standard_slices(np.array(study.volume(name)), study.grid)
            for name in study.acquired
            if name in CLASSES
        }
        for study in sorted(studies, key=lambda study: study.subject)
    }


def _labelled(planes: Planes) -> Iterator[Labelled]:
    for images in planes.values():
        for name, image in images.items():
            yield image, name


def _clouds(net: SequenceNet, planes: Planes) -> dict[str, Cloud]:
    found = {}
    for name in CLASSES:
        features = [look_at(net, images[name])[1].numpy() for images in planes.values() if name in images]
        found[name] = Cloud.of(np.stack(features))
    return found


def _ask(net: SequenceNet, clouds: dict[str, Cloud], images: dict[str, Tensor], held: HeldOut) -> None:
    """Add what a network says of one subject that it never saw."""
    seen = {}
    away = {}
    for name, planes in images.items():
        logs, features = look_at(net, planes)
        seen[name] = {c: float(p) for c, p in zip(CLASSES, logs.exp(), strict=True)}
        away[name] = {"unlike": clouds[name].distance(features.numpy())}
        held.stated.append(min(margins(seen[name], name).values()))
        held.renamed += [min(margins(seen[name], other).values()) for other in CLASSES if other != name]
    for a, b in combinations(seen, 2):
        held.pairs.append(margins(seen[a], a)[b] + margins(seen[b], b)[a])
        held.swapped.append(margins(seen[a], b)[a] + margins(seen[b], a)[b])
    distance = unlikeness({"images": away})
    if distance is not None:
        held.distances.append(distance)
