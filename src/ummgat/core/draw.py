"""Who trains with which sequences: the split by subject and the draw, one JSON file fixed before any training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ummgat.core.domain import SEQUENCES, Domain, DomainTable
from ummgat.core.files import read_json
from ummgat.core.study import Study

Mode = Literal["strict", "all"]


class Draw(BaseModel):
    """Split and draw. A training subject contributes the sequences listed for it, and no others."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["ummgat-draw-1"] = "ummgat-draw-1"
    mode: Mode
    """`strict`: one sequence per patient (the paper). `all`: whatever a patient has, still used unpaired."""
    seed: int | None
    domains: list[str]
    """`center/sequence`, in the order of the networks' branches."""
    train: dict[str, list[str]]
    """Training subject → its sequences."""
    selection: list[str]
    """May choose checkpoints and settings, disclosed."""
    test: list[str]
    """Choose nothing."""

    @model_validator(mode="after")
    def _disjoint(self) -> "Draw":
        repeated = sorted({s for s in self.subjects if self.subjects.count(s) > 1})
        if repeated:
            raise ValueError(f"subjects in more than one part: {', '.join(repeated)}")
        if self.mode == "strict" and any(len(sequences) != 1 for sequences in self.train.values()):
            raise ValueError("mode is strict, but a training subject does not have exactly one sequence")
        return self

    @property
    def subjects(self) -> list[str]:
        """All subjects of the three parts."""
        return [*self.train, *self.selection, *self.test]

    def studies(self, studies: Sequence[Study], part: str, cohort: Path) -> list[Study]:
        """Those of `studies` that are in `part`: `selection`, `test`, or `all` of the draw. `cohort` is named in
        errors.

        Raises
        ------
        ValueError
            None is.
        """
        subjects = {"selection": self.selection, "test": self.test, "all": self.subjects}[part]
        chosen = [study for study in studies if study.subject in subjects]
        if not chosen:
            raise ValueError(
                f"No {part} subject in the cohort: {cohort}. Found none of {', '.join(subjects) or 'an empty list'}; "
                f"expected at least one. Prepare them, or choose the other --part."
            )
        return chosen

    @property
    def table(self) -> DomainTable:
        """The ordered domains."""
        return DomainTable.from_names(self.domains)


NO_DRAW = (
    "No draw: all {n} subjects are taken for test subjects. If a network trained on any of them, the numbers say "
    "nothing of new patients."
)
"""What to say where `given_or_all_test` had nothing to go by."""


def given_or_all_test(path: Path | None, studies: Sequence[Study]) -> Draw:
    """The draw in a file; without one, every study is a test subject, as in a cohort that nothing was trained on."""
    if path is not None:
        return load_draw(path)
    domains = sorted({f"{study.center}/{sequence}" for study in studies for sequence in study.acquired})
    test = [study.subject for study in studies]
    return Draw(mode="all", seed=None, domains=domains, train={}, selection=[], test=test)


def load_draw(path: Path) -> Draw:
    """Read a draw file written by `ummgat draw`."""
    try:
        return Draw.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(
            f"Draw file is not valid: {path}. Found {error}; expected what `ummgat draw` writes. Make it again."
        ) from error


def make_draw(
    studies: Sequence[Study],
    mode: Mode,
    seed: int,
    domains: Sequence[str] | None = None,
    split_file: Path | None = None,
    fractions: tuple[float, float] = (0.1, 0.2),
) -> Draw:
    """Split subjects and choose their training sequences.

    Parameters
    ----------
    studies : sequence of Study
    mode : "strict" or "all"
    seed : int
        Of the split and of the strict draw; unused for what `split_file` fixes.
    domains : sequence of str, optional
        `center/sequence` names to keep, in order. Default: every acquired one, centers by name, sequences in
        `SEQUENCES` order.
    split_file : Path, optional
        JSON with `train`, `selection`, `test` lists and, for strict, `one_sequence_per_patient`.
    fractions : (float, float)
        Shares of subjects for selection and test when there is no `split_file`, taken within each center.
        Source: the paper splits 4:1; selection is ours, since test subjects may choose nothing.

    Raises
    ------
    ValueError
        If a split subject is not in the cohort, or a domain gets no training volume.
    """
    by_subject = {study.subject: study for study in studies}
    present = {(s.center, q) for s in studies for q in s.acquired}
    known = [f"{c}/{q}" for c in sorted({s.center for s in studies}) for q in SEQUENCES if (c, q) in present]
    table = DomainTable.from_names(domains or known)
    rng = np.random.default_rng(seed)
    given: dict[str, str] = {}
    if split_file is not None:
        value = read_json(split_file)
        parts = [[str(s) for s in value.get(key, [])] for key in ("train", "selection", "test")]
        given = dict(value.get("one_sequence_per_patient", {})) if mode == "strict" else {}
        absent = sorted(set().union(*parts) - set(by_subject))
        if absent:
            raise ValueError(
                f"Split names subjects that the cohort lacks: {split_file}. Found {', '.join(absent)}; "
                f"expected some of {len(by_subject)} prepared subjects. Prepare them, or correct the split."
            )
    else:
        parts = _random_split(studies, rng, fractions)
    train: dict[str, list[str]] = {}
    counts = {domain: 0 for domain in table}
    for subject in parts[0]:
        study = by_subject[subject]
        usable = [q for q in study.acquired if Domain(study.center, q) in table]
        if mode == "strict" and subject in given:
            if given[subject] not in study.acquired:
                raise ValueError(
                    f"Split gives a subject a sequence it lacks: {split_file}, {subject}. Found {given[subject]}; "
                    f"expected one of {', '.join(study.acquired)}. Correct the split."
                )
            usable = [q for q in usable if q == given[subject]]  # none if `domains` leaves it out
        elif mode == "strict" and usable:
            # The rarest domain so far, so that one sequence per patient still feeds every branch.
            fewest = min(counts[Domain(study.center, q)] for q in usable)
            usable = [str(rng.choice([q for q in usable if counts[Domain(study.center, q)] == fewest]))]
        if not usable:
            continue
        train[subject] = usable
        for q in usable:
            counts[Domain(study.center, q)] += 1
    empty = [str(domain) for domain, n in counts.items() if n == 0]
    if empty:
        raise ValueError(
            f"Domains without a training volume. Found none for {', '.join(empty)}; expected at least 1 each. "
            "Add subjects, drop these domains with --domains, or change --seed."
        )
    return Draw(
        mode=mode,
        seed=None if split_file is not None and (mode == "all" or given) else seed,
        domains=table.names,
        train=train,
        selection=parts[1],
        test=parts[2],
    )


def _random_split(
    studies: Sequence[Study], rng: np.random.Generator, fractions: tuple[float, float]
) -> list[list[str]]:
    """Train, selection and test subjects, drawn within each center so that none is missing from a part."""
    parts: list[list[str]] = [[], [], []]
    for center in sorted({study.center for study in studies}):
        subjects = np.array(sorted(study.subject for study in studies if study.center == center))
        rng.shuffle(subjects)
        n_selection, n_test = (round(share * len(subjects)) for share in fractions)
        cuts = np.split(subjects, [n_test, n_test + n_selection])
        for part, chosen in zip((2, 1, 0), cuts, strict=True):
            parts[part] += [str(s) for s in chosen]
    return [sorted(part) for part in parts]
