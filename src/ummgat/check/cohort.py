"""Check a prepared cohort: measure what is new, judge every study in the light of all, write it down."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ummgat.check.checker import Checker
from ummgat.check.judge import judge_cohort
from ummgat.check.measure import measure
from ummgat.check.page import write_page
from ummgat.core.data_marks import digest
from ummgat.core.each import Progress, Report, each, named
from ummgat.core.files import FULL, write_json
from ummgat.core.paths import require_no_link
from ummgat.core.study import ChecksRecord, FindingRecord, Study, load_cohort, load_study

PAGE = "checks.html"


@dataclass
class CheckReport(Report[None]):
    """What `check_cohort` found. `done` were measured now, `up_to_date` had been before; both are judged."""

    findings: dict[str, list[FindingRecord]] = field(default_factory=dict)
    """Subject → findings, also empty ones."""
    page: Path | None = None


@dataclass(frozen=True)
class _Order:
    checker: Checker
    again: bool


def check_cohort(
    cohort: Path, checker: Checker, *, again: bool = False, jobs: int = 1, progress: Progress | None = None
) -> CheckReport:
    """Check every study of a cohort; numbers and findings go into its `study.json`, thumbnails into `checks.html`.

    A finding changes nothing else: no study is left out because of it. Studies measured before with the same checks and
    the same voxels are not measured again, but judged again, since the cohort may have grown.

    Parameters
    ----------
    cohort : Path
        Prepared cohort.
    checker : Checker
    again : bool
        Measure everything anew.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    CheckReport

    Raises
    ------
    ValueError
        There is no prepared study.
    OSError
        The disk is full.
    """
    report = CheckReport()
    studies = _readable(Path(cohort), report)
    now = each(
        _measure, named(studies, lambda study: study.subject), _Order(checker, again), jobs=jobs, progress=progress
    )
    measured = {subject: numbers for subject, (numbers, _) in now.done.items()}
    report.done = {subject: None for subject, (_, before) in now.done.items() if not before}
    report.up_to_date = [subject for subject, (_, before) in now.done.items() if before]
    report.failed |= now.failed
    report.findings = judge_cohort(measured, checker.reference)
    for study in studies:
        if study.subject in measured:
            record = ChecksRecord(
                checker=checker.hash,
                measured=measured[study.subject],
                findings=report.findings[study.subject],
            )
            try:
                if study.record.checks != record:
                    study.record.checks = record
                    require_no_link(study.folder)
                    write_json(study.folder / "study.json", study.record.model_dump(mode="json"))
            except (ValueError, OSError) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                report.failed[study.subject] = str(error)
    report.page = write_page(Path(cohort) / PAGE, studies, report.findings, report.failed, checker.reference)
    return report


def _measure(order: _Order, study: Study) -> tuple[dict[str, Any], bool]:
    """Numbers of one study, and whether they had been measured before."""
    known = None if order.again else _known(study, order.checker)
    return (measure(study, order.checker), False) if known is None else (known, True)


def _readable(cohort: Path, report: CheckReport) -> list[Study]:
    """Every study whose record can be read; the others go to `report.failed`."""
    studies = []
    for path in sorted(cohort.glob("[!.]*/study.json")):
        try:
            studies.append(load_study(path.parent))
        except (ValueError, OSError) as error:
            report.failed[path.parent.name] = str(error)
    return studies or load_cohort(cohort)  # which says that there is none


def _known(study: Study, checker: Checker) -> dict[str, Any] | None:
    """What was measured before, if nothing has changed since."""
    checks = study.record.checks
    if checks is None or checks.checker != checker.hash or not checker.hash:
        return None
    digests = {name: image["digest"] for name, image in checks.measured["images"].items()}
    now = {name: digest(np.array(study.volume(name))) for name in study.acquired}
    return checks.measured if digests == now else None
