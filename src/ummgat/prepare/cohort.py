"""Prepare a whole folder of studies: resumable, in parallel, never leaving anything half-written."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ummgat.core.each import Progress, Report, each, named
from ummgat.core.files import explained_full_disk, remove_leftovers, write_json
from ummgat.core.study import Study, load_study
from ummgat.core.version import __version__
from ummgat.core.volume import Grid, read_grid
from ummgat.intake.layouts import RawStudy, find_studies
from ummgat.intake.names import check_name
from ummgat.prepare.centers import assign_centers
from ummgat.prepare.images import StudyError, grid_problems
from ummgat.prepare.one import prepare_one
from ummgat.prepare.settings import PrepareSettings
from ummgat.prepare.store import Status, fingerprint, status


@dataclass(frozen=True)
class PlannedStudy:
    """What is to be done with one study, for `dry_run` and for the workers."""

    raw: RawStudy
    center: str
    folder: Path
    status: Status
    fingerprint: str
    grid: Grid | None = None
    """Of the raw images, read from the headers in a dry run only."""


@dataclass
class PrepareReport(Report[None]):
    """What `prepare_cohort` did, or in a dry run would do. `failed` says all problems of a subject."""

    layout: str = ""
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Subject → remarks that did not stop it."""
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Subject → names of image files that were not used."""
    planned: list[PlannedStudy] = field(default_factory=list)
    """Filled by a dry run: everything that would be done or is up to date."""


def prepare_cohort(
    source: Path,
    out: Path,
    settings: PrepareSettings,
    *,
    jobs: int = 1,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    found: tuple[list[RawStudy], str] | None = None,
) -> PrepareReport:
    """Prepare every study below `source` into `out`.

    Studies whose inputs and settings are unchanged are left alone, so an interrupted run goes on where it stopped. A
    bad study is reported and the rest is done. Several sources may go into one `out`, one call each.

    Parameters
    ----------
    source : Path
        Folder of raw studies, see `layouts`.
    out : Path
        Cohort folder, see `ummgat.core.study`; gets `cohort.json` as well.
    settings : PrepareSettings
    jobs : int
        Worker processes. The result does not depend on it.
    dry_run : bool
        Read names and headers only, write nothing.
    overwrite : bool
        Prepare everything again, and replace studies prepared with other settings.
    progress : callable, optional
    found : (studies, layout), optional
        What is to be prepared, if it was found otherwise than by `layouts.find_studies`, as from a sheet.

    Returns
    -------
    PrepareReport

    Raises
    ------
    FileNotFoundError, ValueError, FileExistsError
        The source, the settings or `out` as a whole are unusable; nothing was written then.
    OSError
        The disk is full. Finished studies stay, nothing half-written does; the next run goes on from there.
    """
    source, out = Path(source), Path(out)
    if out.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"Output and source overlap: {out}. Found {source} as source; expected separate folders. Choose another "
            f"output."
        )
    raws, layout = found or find_studies(source, settings.layout)
    report = PrepareReport(layout=layout)
    planned = list(_plan(raws, layout, out, settings, overwrite, report))
    _check_others(out, planned, report)
    if dry_run:
        report.planned = [_with_grid(plan, report, settings.raw) for plan in planned]
        report.planned = [plan for plan in report.planned if plan.raw.subject not in report.failed]
        return report
    remove_leftovers(out)
    report.up_to_date = [plan.raw.subject for plan in planned if plan.status == "up to date"]
    todo = named((plan for plan in planned if plan.status != "up to date"), lambda plan: plan.raw.subject)
    now = each(_prepare, todo, settings, jobs=jobs, progress=progress)
    report.done = now.done
    report.failed = dict(sorted((report.failed | now.failed).items()))
    if report.present:
        studies = _studies_in(out, report.failed)
        report.findings |= {study.subject: study.record.findings for study in studies if study.record.findings}
        with explained_full_disk(out / "cohort.json"):
            _write_cohort_json(out, settings, report, studies)
    return report


def cohort_table(studies: Sequence[Study]) -> list[dict[str, str]]:
    """One row per study for printing: subject, center, sequences, lesion_ml ("not annotated" without annotation)."""
    rows = []
    for study in studies:
        lesion = study.lesion()
        voxel_ml = abs(float(np.linalg.det(study.grid.matrix[:3, :3]))) / 1000
        rows.append(
            {
                "subject": study.subject,
                "center": study.center,
                "sequences": " ".join(study.sequences),
                "lesion_ml": "not annotated" if lesion is None else f"{int(lesion.sum()) * voxel_ml:.1f}",
            }
        )
    return rows


def plan_table(report: PrepareReport) -> list[dict[str, str]]:
    """One row per study of a dry run for printing: subject, center, sequences, annotation, grid, action."""
    rows = []
    for plan in report.planned:
        spacing = " × ".join(f"{v:.4g}" for v in plan.grid.spacing_mm) if plan.grid else "?"
        rows.append(
            {
                "subject": plan.raw.subject,
                "center": plan.center,
                "sequences": " ".join(plan.raw.images),
                "annotation": plan.raw.labels.name if plan.raw.labels else "none",
                "grid": f"{' × '.join(map(str, plan.grid.shape)) if plan.grid else '?'} of {spacing} mm",
                "action": "leave (up to date)" if plan.status == "up to date" else f"prepare ({plan.status})",
            }
        )
    return rows


def _plan(
    raws: Sequence[RawStudy], layout: str, out: Path, settings: PrepareSettings, overwrite: bool, report: PrepareReport
) -> Iterator[PlannedStudy]:
    """Studies that can be prepared; the problems of the others go to `report.failed`."""
    centers, center_problems = assign_centers([raw.subject for raw in raws], settings)
    for raw in raws:
        problems = [*raw.problems, *([center_problems[raw.subject]] if raw.subject in center_problems else [])]
        try:
            folder = out / check_name(raw.subject, "subject", str(raw.subject))
            if not problems:
                mark, center = fingerprint(raw, layout, settings), centers[raw.subject]
                yield PlannedStudy(raw, center, folder, status(folder, mark, center, overwrite), mark)
        except (ValueError, OSError) as error:
            problems.append(str(error))
        if problems:
            report.failed[raw.subject] = str(StudyError(raw.subject, problems))
        if raw.findings:
            report.findings[raw.subject] = raw.findings
        not_used = [*raw.ignored, *(name for name in raw.left_out if name not in raw.ignored)]
        if not_used:
            report.ignored[raw.subject] = not_used


def _studies_in(out: Path, may_be_broken: Iterable[str]) -> list[Study]:
    """Read the prepared studies in `out`, sorted; unreadable ones among `may_be_broken` are left out, others raise."""
    studies = []
    for path in sorted(out.glob("[!.]*/study.json")):
        try:
            studies.append(load_study(path.parent))
        except ValueError:
            if path.parent.name not in may_be_broken:
                raise
    return studies


def _check_others(out: Path, planned: Sequence[PlannedStudy], report: PrepareReport) -> None:
    """Refuse to mix: studies in `out` that this call does not replace must have been prepared with the same
    settings.
    """
    ours = {plan.raw.subject for plan in planned} | set(report.failed)
    marks = {plan.fingerprint.partition("-")[0] for plan in planned}
    foreign = [
        study.subject
        for study in _studies_in(out, ours)
        if marks and study.folder.name not in ours and study.record.fingerprint.partition("-")[0] not in marks
    ]
    if foreign:
        raise FileExistsError(
            f"Output holds studies prepared with other settings: {out}. Found {', '.join(foreign[:5])}"
            f"{' …' if len(foreign) > 5 else ''}; expected one spacing and scaling per cohort. Choose another output "
            f"folder."
        )


def _with_grid(plan: PlannedStudy, report: PrepareReport, raw: bool) -> PlannedStudy:
    """Check the headers of one study, which may differ in grid if it is `raw`; problems go to `report.failed`."""
    if plan.raw.packed is not None:  # its headers were read when it was found
        return plan
    files = {**plan.raw.images, **({"labels": plan.raw.labels} if plan.raw.labels is not None else {})}
    grids: dict[str, tuple[str | Path, Grid]] = {}
    problems = []
    for name, path in files.items():
        try:
            grids[name] = (path, read_grid(path))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if not raw:
        problems += grid_problems(plan.raw.subject, grids)
    if problems:
        report.failed[plan.raw.subject] = str(StudyError(plan.raw.subject, problems))
        return plan
    grid = next(iter(grids.values()))[1]
    return PlannedStudy(plan.raw, plan.center, plan.folder, plan.status, plan.fingerprint, grid)


def _prepare(settings: PrepareSettings, plan: PlannedStudy) -> None:
    prepare_one(plan.raw, plan.center, plan.folder, plan.fingerprint, settings)


def _write_cohort_json(out: Path, settings: PrepareSettings, report: PrepareReport, studies: Sequence[Study]) -> None:
    subjects = {}
    for study in studies:
        lesion = study.lesion()
        subjects[study.subject] = {
            "center": study.center,
            "sequences": study.sequences,
            "lesion_voxels": None if lesion is None else int(lesion.sum()),
            "brain_voxels": study.record.brain_voxels,
            "crop_lost_voxels": study.record.crop_lost_voxels,
            "findings": study.record.findings,
        }
    write_json(
        out / "cohort.json",
        {
            "format": "ummgat-cohort-1",
            "version": __version__,
            "layout": report.layout,
            "settings": {
                **settings.model_dump(mode="json"),
                "template": None if settings.template is None else settings.template.name,
                "centers": None if settings.centers is None else settings.centers.name,
            },
            "subjects": subjects,
            "failures": report.failed,
        },
    )
