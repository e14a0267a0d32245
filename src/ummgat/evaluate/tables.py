"""Rows of an evaluation, brought together: medians per cell, tests against copies, wins, and the paper beside it.

A cell is a scenario, a segmenter, a substitute and a region; its values are the Dice of the subjects.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import NamedTuple

import numpy as np

from ummgat.evaluate.results import Row
from ummgat.evaluate.statistics import Comparison, Friedman, Summary, cohens_d, compare, friedman, holm, summarise

REGION_ORDER = ("WT", "TC", "ET")


class Treatment(NamedTuple):
    """What was done in a scenario."""

    scenario: str
    segmenter: str
    method: str
    source: str


@dataclass
class Cell:
    """A treatment in one region."""

    treatment: Treatment
    rule: str
    region: str
    dice: dict[str, float]
    """Subject → Dice."""
    hd95: dict[str, float]
    summary: Summary
    hd95_summary: Summary
    against_copy: Comparison | None = None
    """Generated minus the copy from the same sources; only for generated, matched and fused ones."""
    corrected_p: float | None = None
    """Of `against_copy`, by Holm over all such cells of the table."""


class Wins(NamedTuple):
    """Cells in which generated images gave a higher, an equal and a lower median Dice (as printed, three decimals)."""

    won: int
    tied: int
    lost: int


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Gather rows into cells, in the order in which they first appear, with tests against the same-source copy."""
    found: dict[tuple[Treatment, str], Cell] = {}
    for row in rows:
        treatment = Treatment(row["scenario"], row["segmenter"], row["method"], row["source"])
        if row["scenario"] == "random":  # sources differ by subject; the rule is what they share
            treatment = treatment._replace(source=row["rule"] if row["rule"] != "single" else row["source"])
        key = (treatment, row["region"])
        if key not in found:
            empty = Summary(float("nan"), float("nan"), float("nan"), 0)
            found[key] = Cell(treatment, row["rule"], row["region"], {}, {}, empty, empty)
        found[key].dice[row["subject"]] = float(row["dice"])
        found[key].hd95[row["subject"]] = float(row["hd95_mm"] or "nan")
    for cell in found.values():
        cell.summary = summarise(list(cell.dice.values()))
        cell.hd95_summary = summarise(list(cell.hd95.values()))
    _test_against_copies(found)
    return list(found.values())


def _test_against_copies(found: Mapping[tuple[Treatment, str], Cell]) -> None:
    tested = []
    for (treatment, region), cell in found.items():
        if treatment.method not in ("generate", "matched"):
            continue
        copy = found.get((treatment._replace(method="copy", segmenter="plain"), region))
        if copy is None or treatment.segmenter != "plain":
            continue
        cell.against_copy = paired(cell, copy)
        if treatment.method == "generate":
            tested.append(cell)
    for cell, p in zip(tested, holm([c.against_copy.p if c.against_copy else None for c in tested]), strict=True):
        cell.corrected_p = p


def paired(a: Cell, b: Cell) -> Comparison:
    """Dice of `a` minus Dice of `b` on the subjects that both have."""
    common = [s for s in a.dice if s in b.dice]
    return compare([a.dice[s] for s in common], [b.dice[s] for s in common])


def wins(table: Sequence[Cell], rival: str) -> Wins:
    """Count generated cells (every source and rule) against the copy from the same sources, or the best copy of the
    scenario.

    Medians are over the subjects that the generated cell and every copy it is set against have: a center whose domains
    the model lacks has copies and nothing generated, and an unfinished run has some rows of a subject without the
    others.

    Parameters
    ----------
    rival : "same-source" or "best"
        The best copy is the one with the highest median on these very subjects, which favours it.
    """
    copies = [c for c in table if c.treatment.method == "copy" and c.treatment.segmenter == "plain"]
    counts = [0, 0, 0]
    for cell in table:
        if cell.treatment.method != "generate" or cell.treatment.segmenter != "plain":
            continue
        scenario, source, region = cell.treatment.scenario, cell.treatment.source, cell.region
        rivals = [
            copy
            for copy in copies
            if copy.treatment.scenario == scenario
            and copy.region == region
            and (rival == "best" or copy.treatment.source == source)
        ]
        common = [s for s in cell.dice if all(s in copy.dice for copy in rivals)]
        if rivals and common:
            best = max(round(_median_on(copy, common), 3) for copy in rivals)
            difference = round(_median_on(cell, common), 3) - best
            counts[0 if difference > 1e-9 else 2 if difference < -1e-9 else 1] += 1
    return Wins(*counts)


class Methods(NamedTuple):
    """Friedman test of some treatments of a scenario, with what effect sizes need."""

    test: Friedman
    n: int
    means: dict[str, float]
    spreads: dict[str, float]

    def effect(self, a: str, b: str) -> float:
        """Cohen's d of `a` minus `b`, by the standard deviation pooled over all treatments; NaN where nothing
        varies.
        """
        spreads = list(self.spreads.values())
        return cohens_d(self.means[a] - self.means[b], spreads) if any(spreads) else float("nan")


def _median_on(cell: Cell, subjects: Sequence[str]) -> float:
    return float(np.median([cell.dice[s] for s in subjects]))


def on_common(table: Sequence[Cell]) -> list[Cell]:
    """The cells of the plain segmenter and its rivals in each scenario and region on the subjects that all of them
    have.

    For pictures that set methods side by side: what a model lacks for a center is copied there but not generated, and
    medians over different subjects do not compare. Where no subject has all, and for `random`, cells stay as they are.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in table:
        groups.setdefault((cell.treatment.scenario, cell.region), []).append(cell)
    out = []
    for (scenario, _), group in groups.items():
        common = set.intersection(*(set(c.dice) for c in group)) if scenario != "random" else set()
        for cell in group:
            if common:
                own = {s: v for s, v in cell.dice.items() if s in common}
                cell = replace(cell, dice=own, summary=summarise(list(own.values())))
            out.append(cell)
    return out


def friedman_of(table: Sequence[Cell], scenario: str, region: str, names: Sequence[Treatment]) -> Methods | None:
    """Test some treatments of a scenario on the subjects that have all of them; None where no test is possible."""
    chosen = {
        _short(c.treatment): c
        for c in table
        if c.treatment.scenario == scenario and c.region == region and c.treatment in names
    }
    if len(chosen) < 3:
        return None
    common = sorted(set.intersection(*(set(c.dice) for c in chosen.values())))
    values = {name: [c.dice[s] for s in common] for name, c in chosen.items()}
    test = friedman(values)
    if test is None:
        return None
    means = {name: float(np.mean(v)) for name, v in values.items()}
    return Methods(test, len(common), means, {name: float(np.std(v, ddof=1)) for name, v in values.items()})


def _short(treatment: Treatment) -> str:
    return f"{treatment.method} {treatment.source}".strip()


def automatic(calibration: Sequence[Cell], table: Sequence[Cell]) -> dict[str, Treatment]:
    """Per scenario the substitute of the plain segmenter that did best on calibration subjects, none of whom is in
    `table`.

    Best: highest mean over regions of the median Dice. Scenarios without calibration have none.

    Raises
    ------
    ValueError
        If a subject is in both parts: then the choice would be made by those it is tested on.
    """
    both = {s for c in calibration for s in c.dice} & {s for c in table for s in c.dice}
    if both:
        raise ValueError(
            f"Calibration and test overlap. Found {', '.join(sorted(both))} in both; expected no common subject. "
            f"Evaluate the selection part for calibration."
        )
    scores: dict[Treatment, list[float]] = {}
    for cell in calibration:
        offered_at_use = cell.treatment.method != "flood"  # which is no image
        if cell.treatment.segmenter == "plain" and offered_at_use and cell.treatment.scenario not in ("none", "random"):
            scores.setdefault(cell.treatment, []).append(cell.summary.median)
    chosen: dict[str, Treatment] = {}
    offered = {c.treatment for c in table}
    for treatment, medians in scores.items():
        if treatment not in offered:
            continue
        best = chosen.get(treatment.scenario)
        if best is None or np.mean(medians) > np.mean(scores[best]):
            chosen[treatment.scenario] = treatment
    return chosen


# ---------------------------------------------------------------- the paper

PAPER_SOURCE = "Tables 1 to 3 of doi.org/10.1038/s41698-025-01173-4, median [quartiles] as printed"

_NAMES = {
    "T1": "t1",
    "T1ce": "t1ce",
    "T2": "t2",
    "Flair": "flair",
    "DWI": "dwi",
    "SWI": "swi",
    "HARDI": "hardi",
    "ASL": "asl",
}
_ORDER = ("t1", "t1ce", "t2", "flair", "dwi", "swi", "hardi", "asl")


def paper_dice(dataset: str) -> dict[tuple[str, str, str, str], Summary]:
    """The paper's Dice of a dataset: (scenario, method, source, region) → median and quartiles (n is 0: not printed
    there).

    Parameters
    ----------
    dataset : "BraTS2019", "UCSF-PDGM" or "BraTS2023-MEN"
    """
    text = resources.files("ummgat").joinpath("evaluate", "paper_dice.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        if row["dataset"] != dataset:
            continue
        scenario, method, source = _of_paper(row["missing"], row["substitute"])
        for region in REGION_ORDER:
            values = [row[f"{region}_{part}"] for part in ("median", "q25", "q75")]
            if all(values):
                median, q25, q75 = map(float, values)
                found[scenario, method, source, region] = Summary(median, q25, q75, 0)
    return found


def _of_paper(missing: str, substitute: str) -> tuple[str, str, str]:
    """Our names for the paper's row."""
    if missing == "No missing":
        return "none", "complete", ""
    asked = [_NAMES[part.strip()] for part in missing.split("+")]
    lacking = sorted(asked, key=_ORDER.index)
    scenario = "+".join(lacking)
    if substitute == "empty":
        return scenario, "empty", ""
    lower = {name.lower(): ours for name, ours in _NAMES.items()}
    parts = [part.strip().replace("_", " ") for part in substitute.split(";")]
    method = "copy" if parts[0].startswith("cp") else "generate"
    sources = [lower[part.split()[-1].removeprefix("cp").lower()] for part in parts]
    if len(set(sources)) == 1:
        return scenario, method, sources[0]
    # Mixed rows name sources in the order of `missing`, which is not always ours.
    of = dict(zip(asked, sources, strict=True))
    return scenario, method, ";".join(f"{target}:{of[target]}" for target in lacking)
