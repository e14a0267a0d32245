"""What only the rows of one exam together can tell: copies, contrast by order, and sequences that are there twice."""

import hashlib
from collections.abc import Sequence
from itertools import combinations, groupby
from pathlib import Path

from ummgat.core.domain import SEQUENCES
from ummgat.core.extras import need
from ummgat.intake.headers import quiet
from ummgat.intake.prefer import prefer
from ummgat.intake.rows import Accept, Row

_CHUNK = 1 << 20


def settle(rows: Sequence[Row], accept: Accept = "sure") -> list[Row]:
    """Sort the rows by subject, exam and series, and complete each in the light of the others. Changes the rows.

    With `accept` "likely", proposals that are only likely are taken like sure ones.
    """
    ordered = sorted(rows, key=lambda row: (row.subject, row.session, row.order, row.series))
    for row in ordered:
        row.accept = accept
    for _, members in groupby(ordered, lambda row: (row.subject, row.session)):
        exam = list(members)
        _mark_copies(exam)
        _tell_contrast(exam)
        _mark_rivals(exam)
    return ordered


def _usable(exam: Sequence[Row]) -> list[Row]:
    return [row for row in exam if not row.problems and not row.skip]


def _mark_copies(exam: Sequence[Row]) -> None:
    """Set aside a later row with exactly the voxels of an earlier one; where names differ, ask which is right."""
    for a, b in combinations(_usable(exam), 2):
        if a.skip or b.skip or a.grid != b.grid or not _same_voxels(a, b):
            continue
        if a.proposal == b.proposal:
            b.skip = True
            b.remarks.append(f"a copy: the same voxels as {a.series}")
        else:
            for row, other in ((a, b), (b, a)):
                row.doubts.append(
                    f"the same voxels as {other.series}, which looks like {other.proposal or 'another sequence'}: "
                    "one of them is mislabelled"
                )


def _same_voxels(a: Row, b: Row) -> bool:
    """Whether the stored voxels are equal byte for byte; unreadable ones are not."""
    try:
        if a.stack is not None and b.stack is not None:
            pairs = list(dict.fromkeys((p.file, q.file) for p, q in zip(a.stack.planes, b.stack.planes, strict=True)))
            pairs.insert(0, pairs[len(pairs) // 2])  # the middle first: it differs soonest
            return all(_pixels(one) == _pixels(other) for one, other in pairs)
        if a.path is not None and b.path is not None:
            return a.path.stat().st_size == b.path.stat().st_size and _digest(a.path) == _digest(b.path)
    except (OSError, ValueError, AttributeError, KeyError):
        pass
    return False


def _pixels(file: Path) -> bytes:
    with quiet():
        data = need("pydicom", "dicom").dcmread(file, specific_tags=["PixelData"], force=True)
    return bytes(data.PixelData)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _tell_contrast(exam: Sequence[Row]) -> None:
    """A T1 of which nothing says whether contrast agent was given was plain if the exam's first t1ce came after it, and
    shows the agent if it came later. Without any t1ce, one protocol run twice with others in between was probably run
    for that.
    """
    given = [row.order[0] for row in _usable(exam) if row.proposal == "t1ce" and row.sure == "sure" and row.order[0]]
    unsaid = [row for row in exam if row.contrast_unsaid and row.order[0]]
    for row in unsaid if given else ():
        if row.order[0] < min(given):
            row.sure = "sure"
            row.why += "; acquired before the series with contrast agent"
        else:
            row.proposal, row.sure = "t1ce", "likely"
            row.why += "; acquired after contrast agent was given"
    if given or any(row.proposal == "t1ce" for row in exam):
        return
    by_protocol = sorted((row for row in unsaid if not row.problems and not row.skip), key=_protocol)
    for _, members in groupby(by_protocol, _protocol):
        runs = sorted(members, key=lambda row: row.order)
        if len(runs) == 2 and any(runs[0].order < row.order < runs[1].order for row in exam):
            runs[0].why += "; the same was acquired again after other series"
            runs[1].proposal = "t1ce"
            runs[
                1
            ].why += "; the same was acquired before, with other series in between: probably before contrast agent"


def _protocol(row: Row) -> tuple[str, str]:
    """What two runs of one protocol share."""
    grid = row.grid
    return row.description, "" if grid is None else f"{grid.shape} {[round(mm, 3) for mm in grid.spacing_mm]}"


def _mark_rivals(exam: Sequence[Row]) -> None:
    """Where several rows could be one sequence, prefer one by rule; annotations and masks are asked about."""
    for sequence in (*SEQUENCES, "seg", "brain_mask"):
        found = [row for row in _usable(exam) if row.proposal == sequence and row.sure != "unknown"]
        if sequence in SEQUENCES:
            if len(found) > 1:
                prefer(found, sequence)
            continue
        if sequence == "seg":
            found += [row for row in _usable(exam) if row.proposal == "wt"]
        for row in found if len(found) > 1 else ():
            others = [other.series for other in found if other is not row]
            more = f" and {len(others) - 2} more" if len(others) > 2 else ""
            row.doubts.append(f"could be {sequence} like {', '.join(others[:2])}{more}: choose one")
