"""What an evaluation should hold and does not: a killed run, or subjects that failed, must not be read as a whole
one.
"""

from collections.abc import Iterable, Sequence

from ummgat.evaluate.results import Row

_ANYWHERE = ("complete", "empty", "copy", "flood")
"""Methods that every center has; what else there is depends on which domains the model knows of a center."""

_Segmentation = tuple[str, str, str, str]
"""Scenario, segmenter, method, source."""


def missing_rows(rows: Iterable[Row], subjects: Sequence[str]) -> list[dict[str, str]]:
    """Segmentations that other subjects have and one lacks.

    Parameters
    ----------
    rows : iterable of dict
        Of `results.csv`.
    subjects : sequence of str
        All who were to be evaluated, as `settings.json` has them.

    Returns
    -------
    list of dict
        `subject`, `missing` (the scenario), `segmenter`, `n` and `substitutes` of each scenario in which something
        lacks; a subject without a single row has one entry, of the scenario `all`. What lacks for everybody cannot be
        seen.
    """
    done: dict[str, dict[_Segmentation, None]] = {}
    centers: dict[str, str] = {}
    for row in rows:
        centers[row["subject"]] = row["center"]
        done.setdefault(row["subject"], {})[_segmentation(row)] = None
    found = []
    for subject in dict.fromkeys([*subjects, *done]):
        if subject not in done:
            found.append({"subject": subject, "missing": "all", "segmenter": "all", "n": "all", "substitutes": "all"})
            continue
        expected = {
            what: None
            for peer, theirs in done.items()
            for what in theirs
            if what[2] in _ANYWHERE or centers[peer] == centers[subject]
        }
        lacking: dict[tuple[str, str], list[str]] = {}
        for what in expected:
            if what not in done[subject]:
                lacking.setdefault(what[:2], []).append(f"{what[2]} {what[3]}".strip())
        found += [
            {
                "subject": subject,
                "missing": scenario,
                "segmenter": segmenter,
                "n": str(len(substitutes)),
                "substitutes": "; ".join(substitutes),
            }
            for (scenario, segmenter), substitutes in lacking.items()
        ]
    return found


def _segmentation(row: Row) -> _Segmentation:
    """In `random` every subject lacks other sequences: that it has any row there is all that can be asked."""
    if row["scenario"] == "random":
        return "random", row["segmenter"], "empty", ""
    return row["scenario"], row["segmenter"], row["method"], row["source"]
