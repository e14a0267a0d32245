"""Rows of the sheet for NIfTI, MetaImage and NRRD files, by BIDS, the known layouts, or whatever their names say."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ummgat.core.domain import SEQUENCES
from ummgat.intake.images import kind_of, read_header, stem_of
from ummgat.intake.layouts import RawStudy, classify_freely, not_acquired, other_image, recognise
from ummgat.intake.names import check_name
from ummgat.intake.privacy import Key, redact
from ummgat.intake.propose import Facts, Proposal, propose
from ummgat.intake.rows import Row
from ummgat.intake.sidecars import read_sidecar

_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)_(?:(ses-[A-Za-z0-9]+)_)?((?:[A-Za-z0-9]+-[A-Za-z0-9]+_)*)([A-Za-z0-9]+)")
_BIDS_SUFFIX = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair", "swi": "swi", "dwi": "dwi", "asl": "asl"}
_BRAIN_MASK = re.compile(r"brain[ _-]?mask|mask[ _-]?brain|(^|[ _-])bet[ _-]mask", re.IGNORECASE)
_PLAIN_FOLDERS = {"anat", "nifti", "nii", "mri", "mr", "images", "raw", "scan", "scans", "data"}

Claim = tuple[str | None, str]
"""A role that a name gives to a file (None if it gives none), and why."""


def file_rows(paths: Sequence[Path], folder: Path, key: Key, hidden: frozenset[str]) -> tuple[list[Row], list[str]]:
    """One row per file, and remarks on whole folders.

    Parameters
    ----------
    paths : sequence of Path
        Images below `folder`.
    key : Key
        For the names of files and folders that hold one of `hidden`.
    hidden : frozenset of str
        Words that name patients, from DICOM headers in the same folder; those of sidecars are added.
    """
    read = {path: read_sidecar(path) for path in paths}
    words = hidden.union(*(identity.words() for _, identity in read.values()))
    by_folder: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        by_folder.setdefault(path.parent, []).append(path)
    labels = _folder_labels(list(by_folder), folder)
    rows: list[Row] = []
    remarks: list[str] = []
    for home, members in by_folder.items():
        if (home / "study.json").is_file():
            remarks.append(f"{len(members)} files in a folder that `ummgat prepare` wrote are left out")
            continue
        known = recognise(home)
        flat = {} if known else _flat_subjects(members)
        for path in members:
            row = Row(_shown(path, folder, key, words), kind_of(path) or "", path=path, order=(0, path.name))
            bids = _BIDS.fullmatch(stem_of(path))
            facts = read[path][0]
            if bids:
                row.subject, row.session, claim = bids[1], bids[2] or "", _by_bids(bids)
                entities = re.sub(r"dir-[A-Za-z0-9]+_", "", bids[3])  # a direction of encoding, not double inversion
                facts = replace(facts, description=f"{facts.description} {entities.replace('_', ' ')}".strip())
            elif known:
                row.subject, claim = known[0].subject, _by_layout(path, known[0], known[1])
                row.problems += [problem.replace(f"{home.parent}/", "") for problem in known[0].problems]
            else:
                row.subject, claim = flat.get(path) or labels[home], _by_name(path, labels[home])
            _propose(row, facts, claim)
            row.description = redact(read[path][0].description, words).lstrip("=+-@\t ")
            _name_subject(row, key, words)
            _look(row, path, folder)
            row.problems = [redact(problem, words) for problem in row.problems]  # they name files
            rows.append(row)
        if known:
            remarks += [f"{redact(known[0].subject, words)}: {finding}" for finding in known[0].findings]
    return rows, remarks


def _propose(row: Row, facts: Facts, claim: Claim) -> None:
    """Fill in the proposal: what the name claims, unless the sidecar contradicts it, else what the sidecar says."""
    role, why = claim
    if role in SEQUENCES:
        found = propose(facts, role)
        found = replace(found, why=why) if found.sequence else found
    elif role is not None:
        found = Proposal(role, "sure", why)
    elif facts.description and why == "":
        found = propose(facts, where="sidecar")
    else:
        found = Proposal(None, "unknown", why or "the name says nothing known")
    row.proposal, row.sure, row.why, row.contrast_unsaid = found.sequence, found.sure, found.why, found.contrast_unsaid


def _by_layout(path: Path, study: RawStudy, layout: str) -> Claim:
    for sequence, image in study.images.items():
        if image == path:
            return sequence, f"named as in {layout}"
    if path == study.labels:
        return "wt" if study.labels_regions == "wt" else "seg", f"annotation named as in {layout}"
    return None, f"no name of {layout}"


def _by_bids(bids: re.Match[str]) -> Claim:
    sequence = _BIDS_SUFFIX.get(bids[4])
    if sequence == "t1" and re.search(r"(^|_)ce-", bids[3]):
        return "t1ce", "BIDS name with ce-"
    return sequence, f"BIDS suffix {bids[4]}" if sequence else ""


def _by_name(path: Path, subject: str) -> Claim:
    stem = stem_of(path)
    if _BRAIN_MASK.search(stem):
        return "brain_mask", "the name says brain mask"
    try:
        role = classify_freely(subject, stem)
    except ValueError as error:
        return None, str(error).partition(";")[0]
    other = other_image(stem) if role is None else None
    return role, f"the name says {role}" if role else f"the name speaks of {other}" if other else ""


def _flat_subjects(paths: Sequence[Path]) -> dict[Path, str]:
    """Subjects in front of file names (`p1_t1`, `p1_t2`, `p2_t1`); empty if no sequence repeats: then a folder is a
    subject.
    """
    prefixes: dict[Path, str] = {}
    roles: list[str] = []
    for path in paths:
        stem = stem_of(path)
        role = _by_name(path, "")[0]
        words = (word for word in re.finditer(r"[^\W_]+", stem) if _means_something(word[0]))
        first = next(words, None)
        if role and first:
            prefixes[path] = stem[: first.start()].rstrip(" _-.")
            roles.append(role)
    distinct = {prefix for prefix in prefixes.values() if prefix}
    if len(distinct) < 2 or len(roles) == len(set(roles)):
        return {}
    return {path: prefix for path, prefix in prefixes.items() if prefix}


def _means_something(word: str) -> bool:
    try:
        return classify_freely("", word) is not None or word.lower() == "brain"
    except ValueError:
        return True


def _folder_labels(homes: Sequence[Path], folder: Path) -> dict[Path, str]:
    """Label of each folder's subject: its name, or the names on the way to it where that is not distinct."""
    parts = {home: [p for p in home.relative_to(folder).parts if p.lower() not in _PLAIN_FOLDERS] for home in homes}
    last = [names[-1] if names else folder.name for names in parts.values()]
    return {
        home: names[-1] if names and last.count(names[-1]) == 1 else "_".join(names) or folder.name
        for home, names in parts.items()
    }


def _shown(path: Path, folder: Path, key: Key, words: frozenset[str]) -> str:
    """Path below the folder, or a salted hash of it where it holds what a header calls the patient."""
    name = path.relative_to(folder).as_posix()
    return name if redact(name, words) == name else "file:" + key.code("file", name)


def _name_subject(row: Row, key: Key, words: frozenset[str]) -> None:
    """Keep the label if it is safe and names nobody."""
    if redact(row.subject, words) != row.subject:
        row.subject = "F" + key.code("folder", row.subject)[:6]
        row.remarks.append("its folder or name would name the patient, so the label is invented")
    try:
        check_name(row.subject, "subject", "folder")
    except ValueError:
        row.subject = ""
        row.doubts.append("its folder's name is no safe label: write a subject")


def _look(row: Row, path: Path, folder: Path) -> None:
    """Add what the header and the place of the file say about whether it can be used."""
    header = read_header(path)
    row.grid = header.grid
    row.problems += header.problems
    row.doubts += header.doubts
    reason = not_acquired(path)
    if reason:
        row.problems.append(f"not acquired: {reason}")
    if "derivatives" in path.relative_to(folder).parts:
        row.skip = True
        row.remarks.append("in a folder of derivatives: already processed")
