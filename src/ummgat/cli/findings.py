"""What quality control found, printed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ummgat.cli.terminal import MANY, say

if TYPE_CHECKING:
    from ummgat.check.cohort import CheckReport
    from ummgat.core.study import FindingRecord


def say_checked(report: "CheckReport") -> None:
    """Print what quality control found."""
    _print_findings(report.findings)
    found = sum(bool(findings) for findings in report.findings.values())
    say(f"{len(report.findings)} studies checked, {found} with findings: {report.page}.")


def _print_findings(findings: "Mapping[str, Sequence[FindingRecord]]") -> None:
    lines = [f"  {subject}: {finding.text}" for subject, found in findings.items() for finding in found]
    if lines:
        more = f"\n  … and {len(lines) - MANY} more" if len(lines) > MANY else ""
        say("Findings:\n" + "\n".join(lines[:MANY]) + more)
