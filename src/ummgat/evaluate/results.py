"""The long CSV of an evaluation: a row per segmentation, region and grid, which a killed run goes on with."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ummgat.core.each import Progress, Report, each, named, reason
from ummgat.core.files import append_text, csv_text, exclusive, write_json, write_text
from ummgat.core.metrics import dice, hd95
from ummgat.core.study import REGIONS, Study
from ummgat.core.volume import Grid, resample
from ummgat.evaluate.lesion_wise import lesion_wise

C = TypeVar("C")

Volume = NDArray[np.uint8]

Row = dict[str, str]

COLUMNS = (
    "subject", "center", "scenario", "missing", "segmenter", "method", "rule", "source", "region", "grid_mm",
    "n_rows", "dice", "hd95_mm", "found_ml", "true_ml", "lesion_dice", "lesion_hd95_mm", "n_lesions", "n_missed",
    "n_false",
)  # fmt: skip

KEY = ("subject", "scenario", "segmenter", "method", "source")
"""What one segmentation is; it has a row per region and grid."""


class ResultsFile:
    """A results file that is being written: what it holds already, and whole segmentations to add."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = _complete_groups(path)

    def add(self, rows: Sequence[Row]) -> None:
        """Add all rows of one segmentation in a single write, safe on disk before the next."""
        text = csv_text(rows, COLUMNS, header=not self.path.is_file())
        append_text(self.path, text, durable=True)
        self.done.add(key_of(rows[0]))

    def sort(self, subjects: Sequence[str]) -> None:
        """Bring the rows into the order of these subjects, each subject's own as they are; others come first."""
        if not self.path.is_file():
            return
        rows = read_results(self.path)
        place = {subject: i for i, subject in enumerate(subjects)}
        ordered = sorted(rows, key=lambda row: place.get(row["subject"], -1))
        if ordered != rows:
            write_text(self.path, csv_text(ordered, COLUMNS))


@contextmanager
def opened_results(folder: Path, settings: Mapping[str, Any]) -> Iterator[ResultsFile]:
    """`results.csv` and `settings.json` of a folder, for one process at a time.

    Raises
    ------
    ValueError
        A folder of other settings, or one that another process is writing to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        same_settings(folder / "settings.json", dict(settings))
        yield ResultsFile(folder / "results.csv")


def add_each(
    results: ResultsFile,
    studies: Sequence[Study],
    rows_of: Callable[[C, Study], Iterable[list[Row]]],
    context: C,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report[None]:
    """Add what `rows_of` gives for every study; a study that fails leaves the others alone.

    In one process each segmentation is on disk before the next begins; with several jobs, each study. The file ends in
    the order of the studies, whoever was first.

    Parameters
    ----------
    results : ResultsFile
    studies : sequence of Study
    rows_of : callable
        (context, study) → the rows of one segmentation after another. A function of a module.
    context : object
    jobs : int
        Worker processes.
    progress : callable, optional
    """
    by_subject = named(studies, lambda study: study.subject)
    new: dict[str, int] = dict.fromkeys(by_subject, 0)

    def add(_: None, study: Study) -> None:
        for rows in rows_of(context, study):
            results.add(rows)
            new[study.subject] += 1

    def add_all(subject: str, found: tuple[list[list[Row]], str | None]) -> None:
        for rows in found[0]:
            results.add(rows)
        new[subject] += len(found[0])

    report: Report[None]
    if jobs == 1:
        report = each(add, by_subject, None, progress=progress)
    else:
        there = each(_all_rows, by_subject, (rows_of, context), jobs=jobs, progress=progress, on_done=add_all)
        problems = there.failed | {subject: why for subject, (_, why) in there.done.items() if why is not None}
        failed = {subject: problems[subject] for subject in by_subject if subject in problems}
        report = Report(dict.fromkeys(s for s in by_subject if s not in failed), failed=failed)
    results.sort(list(by_subject))
    report.up_to_date = [subject for subject in report.done if not new[subject]]
    report.done = {subject: None for subject in report.done if new[subject]}
    return report


def _all_rows(
    given: tuple[Callable[[C, Study], Iterable[list[Row]]], C], study: Study
) -> tuple[list[list[Row]], str | None]:
    """Rows of one study in a worker process, and why they end early, if they do."""
    rows_of, context = given
    found: list[list[Row]] = []
    try:
        found.extend(rows_of(context, study))
    except Exception as error:  # noqa: BLE001  (a foreign segmenter may raise anything)
        return found, reason(error)
    return found, None


def key_of(row: Row) -> tuple[str, ...]:
    """What segmentation a row is of."""
    return tuple(row[name] for name in KEY)


def scores(
    about: Row, found: Volume, study: Study, regions: Literal["multi", "wt"], fine: Study | None = None
) -> list[Row]:
    """Rows of one segmentation: a region that both segmenter and annotation tell, on the study's grid and a finer one.

    Parameters
    ----------
    about : Row
        Columns up to `source`.
    found : ndarray (plane, row, column), uint8
        `study.LABELS` on the grid of `study`.
    study : Study
        Annotated.
    regions : "multi" or "wt"
        What the segmenter tells.
    fine : Study, optional
        The same subject prepared with smaller voxels: labels are brought to them (nearest) and compared with its own.
        Surface distances are left out there: they would take longer than all the rest.
    """
    own = _scores_on(about, found, np.asarray(study.labels()), study, regions, distances=True)
    if fine is not None:
        own += _scores_on(about, *_finely(found, study, fine), fine, regions, distances=False)
    return [row | {"n_rows": str(len(own))} for row in own]


def round_trip(study: Study, fine: Study) -> list[Row]:
    """What the grid alone costs: the study's true labels, brought to smaller voxels, against the truth there."""
    about = {
        "subject": study.subject, "center": study.center, "scenario": "none", "missing": "", "segmenter": "round trip",
        "method": "complete", "rule": "", "source": "",
    }  # fmt: skip
    own = _scores_on(about, *_finely(np.asarray(study.labels()), study, fine), fine, "multi", distances=False)
    return [row | {"n_rows": str(len(own))} for row in own]


def _finely(found: Volume, study: Study, fine: Study) -> tuple[Volume, Volume]:
    """Labels and truth on the finer grid, cut to a box that holds all of both: outside there is nothing to compare."""
    truth = np.asarray(fine.labels())
    to_fine = np.linalg.inv(fine.grid.matrix) @ study.grid.matrix
    marks: list[NDArray[Any]] = [np.argwhere(truth.T)]
    if found.any():
        inside = np.argwhere(found.T)
        ends = np.array([inside.min(0) - 1, inside.max(0) + 1])  # nearest reaches half a voxel further
        corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2], 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        marks.append((corners @ to_fine.T)[:, :3])
    all_marks = np.concatenate(marks)
    if not len(all_marks):
        return found[:0], truth[:0]
    shape = np.array(fine.grid.shape)
    low = np.clip(np.floor(all_marks.min(0)).astype(int), 0, shape - 1)
    high = np.clip(np.ceil(all_marks.max(0)).astype(int) + 1, low + 1, shape)
    shift = np.eye(4)
    shift[:3, 3] = low
    box = Grid.of(tuple(int(n) for n in high - low), fine.grid.matrix @ shift)
    there: Volume = resample(found.T, study.grid, box, order=0).T
    return there, truth[tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))]


def _scores_on(
    about: Row, found: Volume, truth: Volume, study: Study, regions: Literal["multi", "wt"], distances: bool
) -> list[Row]:
    spacing = study.grid.spacing_mm
    voxel_ml = study.grid.voxel_ml
    both = regions == "multi" and study.record.labels_regions == "multi"
    rows = []
    for region, labels in REGIONS.items() if both else [("WT", REGIONS["WT"])]:
        a, b = np.isin(found, labels), np.isin(truth, labels)
        sides = spacing[2], spacing[1], spacing[0]
        distance = f"{hd95(a, b, sides):.3f}" if distances else ""
        lesions = lesion_wise(a, b, sides)
        rows.append(
            about
            | {
                "region": region,
                "grid_mm": f"{spacing[0]:g}",
                "dice": f"{dice(a, b):.5f}",
                "hd95_mm": distance,
                "found_ml": f"{a.sum() * voxel_ml:.3f}",
                "true_ml": f"{b.sum() * voxel_ml:.3f}",
                "lesion_dice": f"{lesions.dice:.5f}",
                "lesion_hd95_mm": f"{lesions.hd95_mm:.3f}",
                "n_lesions": str(lesions.n_true),
                "n_missed": str(lesions.n_missed),
                "n_false": str(lesions.n_false),
            }
        )
    return rows


def read_results(path: Path) -> list[Row]:
    """Rows of a results file.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, or not a file that `evaluate` wrote.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Results are missing: {path}. Found no file; expected results.csv of `ummgat evaluate`. Choose its folder."
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"Not a results file: {path}. Found columns {', '.join(reader.fieldnames or ())}; expected "
                f"{', '.join(COLUMNS)}. Choose the file that `ummgat evaluate` wrote."
            )
        return list(reader)


def same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write settings where there are none; ValueError if there are others."""
    if not path.is_file():
        write_json(path, settings)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in sorted({*found, *settings}) if found.get(name) != settings.get(name)]
    if different:
        raise ValueError(
            f"Folder belongs to another evaluation: {path.parent}. Found other {', '.join(different)}; expected the "
            f"same. Choose another output folder."
        )


def _complete_groups(path: Path) -> set[tuple[str, ...]]:
    """Segmentations whose rows are all there; rows that a kill cut short are dropped from the file."""
    if not path.is_file():
        return set()
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(io.StringIO(whole)))
    # Two runs at once, against all advice, write rows twice: the first of each counts.
    first: dict[tuple[str, ...], Row] = {}
    for row in rows:
        first.setdefault((*key_of(row), row["region"], row["grid_mm"]), row)
    unique = list(first.values())
    counts = Counter(key_of(row) for row in unique)
    kept = [row for row in unique if counts[key_of(row)] == int(row["n_rows"])]
    if whole != text or len(kept) < len(rows):
        write_text(path, csv_text(kept, COLUMNS))
    return {key_of(row) for row in kept}
