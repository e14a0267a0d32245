"""The command `ummgat check`."""

from pathlib import Path
from typing import Annotated

import typer

from ummgat.cli.findings import say_checked
from ummgat.cli.options import Checks, Jobs
from ummgat.cli.terminal import command, progress, report_failures


@command(panel="Data", example="ummgat check cohort")
def check(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort.")],
    checks: Checks = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what was measured before.")] = False,
    jobs: Jobs = 1,
) -> None:
    """Look for mislabelled, copied, misregistered, badly stripped, cut-off and unusual studies. Warns, changes no
    image.
    """
    from ummgat.check.cohort import check_cohort
    from ummgat.check.prepared import checker_of

    checker = checker_of(checks)
    with progress("Checking") as show:
        report = check_cohort(cohort, checker, again=again, jobs=jobs, progress=show)
    say_checked(report)
    report_failures(report.failed)
