"""From numbers to findings: what is said of a study, and with which limit."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ummgat.check.network import CLASSES
from ummgat.check.reference import Reference, Typical, deviations, usual_pairs
from ummgat.core.study import FindingRecord

Measured = Mapping[str, Any]
"""See `measure.measure`."""

ENOUGH = 10
"""Studies with a pair of sequences, from which on a cohort is its own measure of that pair."""

_ALONE = float(-np.log(9))
"""Margin between t1 and t1ce below which an image is doubted although its study has a better one for the other name:
nine to one."""

_TINY = 1e-6


def margins(probabilities: Mapping[str, float], stated: str) -> dict[str, float]:
    """Log-probability of the stated sequence less that of each other."""
    own = np.log(max(probabilities[stated], _TINY))
    return {name: float(own - np.log(max(p, _TINY))) for name, p in probabilities.items() if name != stated}


def doubted_names(measured: Measured, reference: Reference) -> list[FindingRecord]:
    """Sequences that do not look like what they are called, together or each by itself.

    First the names of a study are dealt out anew among its images as fits all of them best: which of two is the t1 and
    which the t1ce is answered better by both than by each. Then every image is asked whether another name fits it
    better than the one it got.
    """
    seen = {name: image["probabilities"] for name, image in measured["images"].items() if name in CLASSES}
    fitting = best_names(seen, reference.swap)
    found = []
    for group in _cycles(fitting):
        if _one_image(group, measured, reference):  # said by `copies`; which of them is wrong is asked below
            fitting |= {name: name for name in group}
            continue
        gained = sum(margins(seen[n], n)[fitting[n]] for n in group)
        listed = f"{', '.join(group[:-1])} and {group[-1]}"
        text = f"{listed} look as if their names were {'swapped' if len(group) == 2 else 'mixed up'}. Look at them."
        found.append(_finding("sequence", group, text, gained, reference.swap))
    for name, probabilities in seen.items():
        against = margins(probabilities, fitting[name])
        other = min(against, key=lambda k: against[k])
        # Only contrast agent tells these two apart, and their names have been dealt out by both images already.
        settled = {fitting[name], other} == {"t1", "t1ce"} <= set(seen)
        limit = min(reference.margin, _ALONE) if settled else reference.margin
        if against[other] < limit and fitting[name] == name:
            text = (
                f"{name} looks like {other} (probability {probabilities[other]:.2f}; of {name} "
                f"{probabilities[name]:.2f}): it may be mislabelled. Look at it."
            )
            found.append(_finding("sequence", [name], text, against[other], limit))
    return found


def best_names(seen: Mapping[str, Mapping[str, float]], limit: float) -> dict[str, str]:
    """Stated name → the name that the image gets when all names of the study are dealt out as fits best.

    Parameters
    ----------
    seen : mapping of stated name → probability of each class
    limit : float
        At most 0. The names stay as stated unless that is less likely than the best by more than this, as a
        log-probability.
    """
    names = list(seen)
    if len(names) < 2:
        return {name: name for name in names}
    logs = np.array([[np.log(max(seen[image][name], _TINY)) for name in names] for image in names])
    rows, columns = linear_sum_assignment(-logs)
    if logs.trace() - logs[rows, columns].sum() >= limit - _TINY:
        return {name: name for name in names}
    return {names[i]: names[j] for i, j in zip(rows, columns, strict=True)}


def _cycles(fitting: Mapping[str, str]) -> list[list[str]]:
    """Images whose names go round among them."""
    left = {name for name, other in fitting.items() if name != other}
    groups = []
    for name in fitting:
        group = []
        while name in left:
            left.discard(name)
            group.append(name)
            name = fitting[name]
        if group:
            groups.append(sorted(group, key=CLASSES.index))
    return groups


def _one_image(group: Sequence[str], measured: Measured, reference: Reference) -> bool:
    pairs = [measured["pairs"].get(f"{a}+{b}", {}).get("correlation", 0.0) for a, b in combinations(group, 2)]
    return all(correlation >= reference.copy_correlation for correlation in pairs)


def copies(measured: Measured, reference: Reference) -> list[FindingRecord]:
    """Two sequences that are one image."""
    found = []
    for pair, numbers in measured["pairs"].items():
        if numbers["correlation"] >= reference.copy_correlation:
            a, b = pair.split("+")
            text = (
                f"{a} and {b} are one image (correlation of ranks {numbers['correlation']:.3f}): one of them is a copy "
                f"or mislabelled. Remove it."
            )
            found.append(_finding("copy", [a, b], text, numbers["correlation"], reference.copy_correlation))
    return found


def doubted_registrations(
    measured: Measured, usual: Mapping[str, Mapping[str, Typical]], reference: Reference
) -> list[FindingRecord]:
    """Sequences that do not lie on the others better than 8 mm beside them, or have next to nothing in common with
    them.
    """
    less = deviations(measured["pairs"], usual, "information")
    peaks = deviations(measured["pairs"], usual, "peak")
    if len(peaks) == 2:  # of two neither can be said to be the wrong one
        both, (value, *_), (peak, *_) = list(peaks), less.values(), peaks.values()
        return _doubted_place(both, "each other", value, peak, reference)
    found = []
    for name in peaks:
        others = [q for pair in measured["pairs"] if name in pair.split("+") for q in pair.split("+") if q != name]
        found += _doubted_place([name], ", ".join(others), less[name], peaks[name], reference)
    return found


def _doubted_place(
    names: Sequence[str], others: str, information: float, peak: float, reference: Reference
) -> list[FindingRecord]:
    """A finding if images share too little with others, by their deviations from what is usual."""
    who, have = " and ".join(names), "has" if len(names) == 1 else "have"
    if peak < reference.peak:
        text = (
            f"{who} {have} hardly more mutual information with {others} in place than 8 mm beside it ({peak:.1f} "
            f"spreads from what is usual): the registration may have failed. Look at it."
        )
        return [_finding("registration", names, text, peak, reference.peak)]
    if information < reference.information:
        text = (
            f"{who} {have} far less mutual information with {others} than is usual ({information:.1f} spreads): the "
            f"registration may have failed, or the image is very noisy. Look at it."
        )
        return [_finding("registration", names, text, information, reference.information)]
    return []


def odd_outlines(measured: Measured, reference: Reference) -> list[FindingRecord]:
    """Brains too large, too small, in pieces, with holes, lopsided or cut off, and rims as bright as scalp."""
    found = []
    for name, (low, high) in reference.outline.items():
        value = measured["outline"][name]
        if low <= value <= high:
            continue
        cut = name.startswith("cut_")
        if cut and value < low:
            continue
        limit = low if value < low else high
        text = _OUTLINES["cut" if cut else name](value, limit, name.removeprefix("cut_"))
        found.append(_finding("field of view" if cut else "strip", [], text, value, limit))
    for name, image in measured["images"].items():
        limit = reference.rim.get(name, np.inf)
        if image["rim"] > limit:
            text = (
                f"The outermost 4 mm of {name} are {image['rim']:.2f} times as bright as its inside, usual is at most "
                f"{limit:.2f}: scalp or eyes may be left. Look at it."
            )
            found.append(_finding("strip", [name], text, image["rim"], limit))
    return found


_OUTLINES: dict[str, Callable[[float, float, str], str]] = {
    "brain_ml": lambda v, limit, _: (
        f"The brain measures {v:.0f} ml, {'less' if v < limit else 'more'} than {limit:.0f}: the strip took too "
        f"{'much' if v < limit else 'little'}, voxel sizes are wrong, or it is no adult's. Look at it."
    ),
    "pieces": lambda v, _, __: (
        f"{v:.1%} of the brain lies apart from the rest: the strip left something else. Look at it."
    ),
    "holes": lambda v, _, __: f"{v:.1%} of the brain's inside is empty: the strip cut holes. Look at it.",
    "mirror": lambda v, limit, _: (
        f"Left and right half of the brain differ (Dice {v:.3f}, usual is at least {limit:.3f}): the strip may have "
        f"taken a part. Look at it."
    ),
    "cut": lambda v, limit, face: (
        f"The brain does not taper at its {face}: its end there has {v:.0%} of its largest cross-section, usual is at "
        f"most {limit:.0%}. The scan may end too early. Look at it."
    ),
}


def unlike_the_cohort(measured: Measured, reference: Reference) -> list[FindingRecord]:
    """A study whose images lie far from those that the checks, and the bundled model, were taught on."""
    value = unlikeness(measured)
    if value is None or value <= reference.unlike:
        return []
    text = (
        f"The study is unlike {reference.cohort} (distance {value:.2f}, usual is at most {reference.unlike:.2f}; "
        f"{reference.rates.get('unlike', np.nan):.0%} of usual studies are called so too). Operated brains, children "
        f"and other diseases were not learnt: a model of that cohort may do worse here."
    )
    return [_finding("unlike", [], text, value, reference.unlike)]


def unusual_content(measured: Measured, reference: Reference) -> list[FindingRecord]:
    """More fluid, or more pieces of oedema or enhancing tissue, than any study of the cohort had."""
    found: list[FindingRecord] = []
    for name, value in measured["content"].items():
        limit = reference.content.get(name, np.inf)
        if value > limit and not (name == "fluid_largest_ml" and found):  # all fluid together was told before
            what, cause = _CONTENTS[name]
            text = (
                f"The brain holds {what.format(value)}, those of {reference.cohort} at most {limit:.0f}: {cause}. A "
                f"model of that cohort may do worse here. Look at it."
            )
            found.append(_finding("unlike", [], text, value, limit))
    return found


_CONTENTS = {
    "fluid_ml": ("{:.0f} ml of fluid", "wide ventricles, or a cavity after an operation"),
    "fluid_largest_ml": ("fluid in one piece of {:.0f} ml", "wide ventricles, or a cavity after an operation"),
    "oedema_pieces": ("{:.0f} separate pieces of oedema", "a disease of many lesions, as metastases"),
    "enhancing_pieces": ("{:.0f} separate pieces of enhancing tissue", "a disease of many lesions, as metastases"),
}


def unlikeness(measured: Measured) -> float | None:
    """Mean distance of a study's sequences from the cohort; None if none can be judged."""
    distances = [image["unlike"] for image in measured["images"].values() if "unlike" in image]
    return float(np.mean(distances)) if distances else None


def repeated(cohort: Mapping[str, Measured]) -> dict[str, list[FindingRecord]]:
    """Subject → findings that an image of it is another subject's too."""
    owners: dict[str, list[tuple[str, str]]] = {}
    for subject, measured in cohort.items():
        for name, image in measured["images"].items():
            owners.setdefault(image["digest"], []).append((subject, name))
    found: dict[str, list[FindingRecord]] = {}
    for holders in owners.values():
        for subject, name in holders:
            others = sorted({f"{q} of {s}" for s, q in holders if s != subject})
            if others:
                text = (
                    f"{name} is voxel for voxel {', '.join(others)}: one patient may be here twice, and be trained on "
                    f"and tested. Remove one."
                )
                found.setdefault(subject, []).append(_finding("copy", [name], text, 1.0, 1.0))
    return found


def judge_cohort(cohort: Mapping[str, Measured], reference: Reference) -> dict[str, list[FindingRecord]]:
    """Findings of every study, those about registration by what is usual in this cohort where it is large enough.

    Parameters
    ----------
    cohort : mapping of subject → measured
    reference : Reference

    Returns
    -------
    dict of subject → list of FindingRecord
        Empty lists for studies of which nothing is said.
    """
    usual = dict(reference.pairs) | {
        pair: numbers
        for pair, numbers in usual_pairs(list(cohort.values())).items()
        if _holders(cohort, pair) >= ENOUGH
    }
    twice = repeated(cohort)
    return {
        subject: [
            *copies(measured, reference),
            *doubted_names(measured, reference),
            *doubted_registrations(measured, usual, reference),
            *odd_outlines(measured, reference),
            *unlike_the_cohort(measured, reference),
            *unusual_content(measured, reference),
            *twice.get(subject, []),
        ]
        for subject, measured in cohort.items()
    }


def _holders(cohort: Mapping[str, Measured], pair: str) -> int:
    return sum(pair in measured["pairs"] for measured in cohort.values())


def _finding(check: str, images: Sequence[str], text: str, value: float, limit: float) -> FindingRecord:
    return FindingRecord(
        check=check, images=list(images), text=text, value=float(f"{value:.6g}"), limit=float(f"{limit:.6g}")
    )
