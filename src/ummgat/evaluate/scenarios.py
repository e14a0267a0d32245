"""Which sequences are missing, and what stands in for them: names and rules, no images.

The paper's rows are all here: a copy of one sequence (`cpT2`), a generation from one (`g_from_T1`), and its mixed rows
for two missing sequences (`gT1_from_T1ce; gT2_from_Flair`).
"""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ummgat.core.domain import SEQUENCES

Method = Literal["complete", "empty", "copy", "matched", "atlas", "generate", "fuse", "flood"]

METHODS: tuple[Method, ...] = get_args(Method)

Assignment = tuple[tuple[str, str], ...]
"""(target, source) for each missing sequence."""

PAPER_MIXED: dict[tuple[str, str], dict[str, str]] = {
    ("t1", "t2"): {"t1": "t1ce", "t2": "flair"},
    ("t1", "flair"): {"t1": "t1ce", "flair": "t2"},
    ("t1ce", "t2"): {"t1ce": "t1", "t2": "flair"},
    ("t1ce", "flair"): {"t1ce": "t1", "flair": "t2"},
}
"""Table 1 of the paper: for these two missing sequences every one has a source of its own."""


GROUPS = {"single": 1, "double": 2, "triple": 3}
"""Group of fixed scenarios → how many sequences are missing."""

FLOOD_SOURCES = ("flair", "t2")
"""Whose copy `flood` finds the lesion with, in order of preference."""

MANY_SEQUENCES = 4
"""With more than these, not every combination is tried unless it is asked for."""


@dataclass(frozen=True)
class Scenario:
    """Sequences that a study lacks."""

    missing: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, missing: Sequence[str]) -> "Scenario":
        """Name it by what is missing: `t1+flair`; `none` for nothing."""
        return cls(tuple(missing), "+".join(missing) or "none")


@dataclass(frozen=True)
class Substitute:
    """What stands in for the missing sequences."""

    method: Method
    rule: str = ""
    """How the sources were chosen: `single` (one for all), `correlation`, `criteria`, `paper`; empty without
    sources."""
    assignment: Assignment = ()

    @property
    def source(self) -> str:
        """`t2` if one sequence is the source of all, `t1:t1ce;t2:flair` if each has its own, empty without."""
        sources = {source for _, source in self.assignment}
        if len(sources) == 1:
            return sources.pop()
        return ";".join(f"{target}:{source}" for target, source in self.assignment)


def fixed_scenarios(sequences: Sequence[str]) -> list[Scenario]:
    """Every way to lack at least one and not all of `sequences`, fewest first: 14 for four."""
    return [Scenario.of(missing) for n in range(1, len(sequences)) for missing in itertools.combinations(sequences, n)]


def random_scenario(sequences: Sequence[str], subject: str, seed: int) -> Scenario:
    """One to all but one of `sequences` missing, how many and which equally likely; a function of subject and seed."""
    rng = np.random.default_rng([seed, zlib.crc32(subject.encode())])
    n = int(rng.integers(1, len(sequences)))
    missing = set(rng.permutation(len(sequences))[:n].tolist())
    return Scenario(tuple(q for i, q in enumerate(sequences) if i in missing), "random")


def all_scenarios(sequences: Sequence[str], subject: str, seed: int) -> list[Scenario]:
    """`none`, the fixed ones, and `random` where there are at least two sequences."""
    found = [Scenario.of(()), *fixed_scenarios(sequences)]
    return [*found, random_scenario(sequences, subject, seed)] if len(sequences) > 1 else found


def scenario_names(sequences: Sequence[str], wanted: Sequence[str] | None) -> set[str]:
    """Names of the scenarios of `sequences` that are wanted; those that other sequences would have are left out.

    Parameters
    ----------
    sequences : sequence of str
    wanted : sequence of str or None
        Names in any order of their sequences (`flair+t1`), and groups: see `GROUPS`, `fixed` for all of these. None:
        `none`, `fixed` and `random` up to `MANY_SEQUENCES`; beyond, where fixed ones count by the hundred (254 of
        eight), `none`, `single` and `random`.

    Raises
    ------
    ValueError
        A name that cannot be a scenario.
    """
    if wanted is None:
        wanted = ("none", "fixed" if len(sequences) <= MANY_SEQUENCES else "single", "random")
    fixed = fixed_scenarios(sequences)
    found: set[str] = set()
    for name in wanted:
        parts = name.split("+")
        if name in ("none", "random"):
            found.add(name)
        elif name == "fixed":
            found |= {scenario.name for scenario in fixed}
        elif name in GROUPS:
            found |= {scenario.name for scenario in fixed if len(scenario.missing) == GROUPS[name]}
        elif len(set(parts)) == len(parts) and set(parts) <= set(SEQUENCES):
            found |= {scenario.name for scenario in fixed if set(scenario.missing) == set(parts)}
        else:
            raise ValueError(
                f"Unknown scenario: --scenarios. Found {name!r}; expected none, {', '.join(GROUPS)}, fixed, random, or "
                f"sequences out of {', '.join(sequences)}, as {'+'.join(sequences[:2])}. Correct it."
            )
    return found


def method_names(wanted: Sequence[str] | None) -> frozenset[str]:
    """Methods to try: all without a wish.

    Raises
    ------
    ValueError
        A name that is no method.
    """
    unknown = [name for name in wanted or () if name not in METHODS]
    if unknown or (wanted is not None and not wanted):
        raise ValueError(
            f"Unknown method: --methods. Found {', '.join(unknown) or 'none'}; expected some of {', '.join(METHODS)}. "
            f"Correct it."
        )
    return frozenset(METHODS if wanted is None else wanted)


def substitutes_of(
    scenario: Scenario,
    sequences: Sequence[str],
    correlated: Mapping[tuple[str, str], float],
    ranked: Mapping[str, Sequence[str]],
    can_generate: Sequence[str],
    has_atlas: bool = False,
) -> list[Substitute]:
    """All that is tried in a scenario; two rules that come to the same images appear once, under the first.

    Parameters
    ----------
    scenario : Scenario
    sequences : sequence of str
        What the segmenter takes.
    correlated : mapping of (target, source) → float
        Correlation of true images of training or calibration subjects. Where it is known for all that is available, the
        most correlated source is copied, matched and translated (rule `correlation`).
    ranked : mapping of target → sources, best first
        The model's stored criteria (rule `criteria`).
    can_generate : sequence of str
        What the model knows for the study's center.
    has_atlas : bool
        The model has an atlas to stand in alone.
    """
    if not scenario.missing:
        return [Substitute("complete")]
    available = [q for q in sequences if q not in scenario.missing]
    assignments: list[tuple[str, Assignment]] = [
        ("single", tuple((target, source) for target in scenario.missing)) for source in available
    ]
    if all((t, s) in correlated for t in scenario.missing for s in available):
        best = {t: max(available, key=lambda s, t=t: correlated[t, s]) for t in scenario.missing}  # type: ignore[misc]
        assignments.append(("correlation", tuple(best.items())))
    mixed = PAPER_MIXED.get(tuple(sorted(scenario.missing, key=_paper_order)))  # type: ignore[arg-type]
    if mixed and set(mixed.values()) <= set(available):
        assignments.append(("paper", tuple((t, mixed[t]) for t in scenario.missing)))
    by_criteria = {t: [s for s in ranked.get(t, ()) if s in available] for t in scenario.missing}
    if all(by_criteria.values()):
        assignments.append(("criteria", tuple((t, s[0]) for t, s in by_criteria.items())))
    found = [Substitute("empty")]
    seen: set[tuple[str, Assignment]] = set()
    methods: tuple[Method, ...] = ("copy", "matched", *(("atlas",) if has_atlas else ()), "generate")
    for method in methods:
        for rule, assignment in assignments:
            needed = {"copy": [], "matched": [t for t, _ in assignment]}.get(
                method, [q for pair in assignment for q in pair]
            )
            known = all(q in can_generate for q in needed)
            if known and (method, assignment) not in seen:
                seen.add((method, assignment))
                found.append(Substitute(method, rule, assignment))
    if "t1ce" in scenario.missing and available:
        # No image at all: whatever is taken for lesion with a copy in place is called enhancing.
        source = next(q for q in (*FLOOD_SOURCES, *available) if q in available)
        found.append(Substitute("flood", "single", tuple((t, source) for t in scenario.missing)))
    sources = [q for q in available if q in can_generate]
    if len(sources) > 1 and all(t in can_generate for t in scenario.missing):
        found.append(Substitute("fuse"))
    return found


def _paper_order(sequence: str) -> int:
    """The order in which `PAPER_MIXED` names pairs."""
    order = ("t1", "t1ce", "t2", "flair")
    return order.index(sequence) if sequence in order else len(order)


def distribution(scenarios: Sequence[Scenario]) -> dict[str, int]:
    """How often each sequence, and each number of sequences, is missing: printed beside random results."""
    counts: dict[str, int] = {}
    for scenario in scenarios:
        for key in (f"{len(scenario.missing)} missing", *(f"{q} missing" for q in scenario.missing)):
            counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))
