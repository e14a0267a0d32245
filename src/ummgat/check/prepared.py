"""Preparation that ends with quality control: one rule for the command line, for Python and for whoever comes next."""

from pathlib import Path

from ummgat.check.checker import Checker, load_checker
from ummgat.check.cohort import CheckReport, check_cohort
from ummgat.core.each import Progress
from ummgat.core.machine import BUNDLED_CHECKS, given_or_bundled
from ummgat.intake.layouts import RawStudy
from ummgat.prepare.cohort import PrepareReport, prepare_cohort
from ummgat.prepare.settings import PrepareSettings


def checker_of(checks: Path | None) -> Checker:
    """The learnt checks in a file of `ummgat train-checks`; None: the bundled ones.

    Raises
    ------
    FileNotFoundError, ValueError
        There are none, or the file is damaged or another kind.
    """
    return load_checker(given_or_bundled(checks, BUNDLED_CHECKS))


def prepare_and_check(
    source: Path,
    out: Path,
    settings: PrepareSettings,
    *,
    checks: Path | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    found: tuple[list[RawStudy], str] | None = None,
    on_prepared: Progress | None = None,
    on_checked: Progress | None = None,
) -> tuple[PrepareReport, CheckReport | None]:
    """Prepare a cohort, then check all of it: findings stand in every `study.json` before anybody uses the studies.

    Parameters
    ----------
    source, out, settings, jobs, overwrite, found
        See `prepare_cohort`.
    checks : Path, optional
        See `checker_of`; read before anything is prepared.
    on_prepared, on_checked : callable, optional
        (studies finished, studies in all, subject).

    Returns
    -------
    (PrepareReport, CheckReport or None)
        None if no study was prepared, now or before.
    """
    checker = checker_of(checks)
    prepared = prepare_cohort(source, out, settings, jobs=jobs, overwrite=overwrite, progress=on_prepared, found=found)
    if not prepared.present:
        return prepared, None
    return prepared, check_cohort(out, checker, jobs=jobs, progress=on_checked)
