"""Rows of the sheet for DICOM: planes sorted into patients, exams, series and volumes, under labels that name
nobody.
"""

from collections.abc import Sequence
from itertools import groupby

from ummgat.intake.headers import Plane
from ummgat.intake.privacy import Key, redact
from ummgat.intake.propose import propose
from ummgat.intake.rows import Row
from ummgat.intake.stacks import Stack, make_stacks


def dicom_rows(planes: Sequence[Plane], key: Key, hidden: frozenset[str]) -> list[Row]:
    """One row per volume.

    Parameters
    ----------
    planes : sequence of Plane
        Of any patients, in any order.
    key : Key
        Gives the labels, and learns new ones.
    hidden : frozenset of str
        Words that no text may show, of all patients: a description may hold the name of another.
    """
    patient_of = {plane: patient_key(plane) for plane in planes}
    labels = key.label_all(patient_of.values())
    namesakes = _namesakes(planes, labels)
    rows = []
    ordered = sorted(
        planes, key=lambda p: (labels[patient_of[p]], p.started, p.study_uid, p.series_number, p.series_uid)
    )
    for patient, own in groupby(ordered, lambda p: patient_of[p]):
        for number, (_, exam) in enumerate(groupby(own, lambda p: p.study_uid), start=1):
            for series_uid, members in groupby(exam, lambda p: p.series_uid):
                stacks = make_stacks(list(members))
                for stack in stacks:
                    part = stack.part() if len(stacks) > 1 else ""
                    name = "dicom:" + key.code("series", patient, stack.first.study_uid, series_uid, part)
                    row = _row(stack, name, labels[patient], str(number), hidden)
                    row.remarks += namesakes.get(patient, [])
                    if not stack.first.identity.known:
                        row.remarks.append("the header names no patient: each exam is taken for one")
                    rows.append(row)
    return rows


def patient_key(plane: Plane) -> str:
    """Tell patients apart; where headers are empty, each exam counts as a patient."""
    return plane.identity.key if plane.identity.known else f"study {plane.study_uid}"


def _row(stack: Stack, name: str, subject: str, session: str, hidden: frozenset[str]) -> Row:
    first = stack.first
    found = propose(first.facts)
    return Row(
        series=name,
        kind="enhanced DICOM" if first.frame is not None else "DICOM",
        subject=subject,
        session=session,
        description=redact(first.facts.description, hidden).lstrip(
            "=+-@\t "
        ),  # a spreadsheet would take it for a formula
        proposal=found.sequence,
        sure=found.sure,
        why=found.why,
        contrast_unsaid=found.contrast_unsaid,
        grid=stack.grid,
        problems=list(stack.problems),
        remarks=[*stack.remarks, f"{len(stack.planes)} planes"] if stack.grid is None else list(stack.remarks),
        order=(first.series_number, first.series_uid),
        skip=found.other,
        stack=stack,
    )


def _namesakes(planes: Sequence[Plane], labels: dict[str, str]) -> dict[str, list[str]]:
    """Patients that share an ID but not the name or birth date: two people, or one with a typing error."""
    by_id: dict[str, set[str]] = {}
    for plane in planes:
        if plane.identity.known and plane.identity.patient_id:
            by_id.setdefault(plane.identity.key.partition("|")[0], set()).add(plane.identity.key)
    found = {}
    for keys in by_id.values():
        for patient in keys if len(keys) > 1 else ():
            others = ", ".join(sorted(labels[other] for other in keys - {patient}))
            found[patient] = [
                f"shares its ID with {others}, but not name and birth date: same label if it is one patient"
            ]
    return found
