"""Whether a prepared study on disk is up to date: fingerprints of settings and inputs."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from ummgat.core.files import require_new
from ummgat.core.study import load_study
from ummgat.intake.layouts import RawStudy
from ummgat.prepare.settings import PrepareSettings

_ALGORITHM = 2  # raise when preparing the same files would give other voxels
Status = Literal["new", "changed", "up to date", "overwrite"]


def fingerprint(raw: RawStudy, layout: str, settings: PrepareSettings) -> str:
    """`<settings>-<inputs>`: two hashes that change with the settings that act on voxels, and with the input files.

    Inputs count by name, size and modification time, so that a check reads no voxels and moving the folder changes
    nothing.
    """
    how: list[object] = [_ALGORITHM, settings.spacing_mm, settings.crop_mm]
    if settings.raw:  # not otherwise, so that studies prepared before this existed stay up to date
        told = settings.template.stat() if settings.template is not None else None
        template = None if told is None else (told.st_size, told.st_mtime_ns)
        how += ["raw", template, settings.reference, settings.brain_mask, settings.n4]
    if settings.label_numbers is not None:
        how += ["label numbers", settings.label_numbers]
    files = {**raw.images, **({"labels": raw.labels} if raw.labels is not None else {})}
    stamps: list[object] = (
        [[name, p.name, p.stat().st_size, p.stat().st_mtime_ns] for name, p in files.items()]
        if raw.packed is None
        else list(raw.packed.stamp)
    )
    inputs: list[object] = [layout, stamps]
    if raw.left_out:  # not otherwise, so that studies prepared before this was kept stay up to date
        inputs.append(sorted(raw.left_out))
    return "-".join(hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in (how, inputs))


def status(folder: Path, mark: str, center: str, overwrite: bool) -> Status:
    """Decide what has to be done for one study, given its present `fingerprint` and center.

    A study whose inputs are unchanged is left alone, even if somebody edited its prepared files; one whose inputs
    changed is replaced as a whole.

    Raises
    ------
    FileExistsError
        If `folder` exists and is not a study that this call may replace: prepared with other settings, for another
        center, or holding files that `prepare` did not write. Not raised with `overwrite`.
    """
    if not folder.exists():
        return "new"
    if overwrite:
        return "overwrite"
    if not (folder / "study.json").is_file():
        require_new(folder, overwrite)
        return "new"
    record = load_study(folder).record
    if record.center != center:
        raise FileExistsError(
            f"Subject exists already for another center: {folder}. Found center {record.center}; expected {center}. "
            "Rename the subject or its center, or pass --overwrite."
        )
    if record.fingerprint.partition("-")[0] != mark.partition("-")[0]:
        raise FileExistsError(
            f"Subject was prepared with other settings: {folder}. Found fingerprint {record.fingerprint or 'none'}; "
            f"expected {mark.partition('-')[0]}-…. Choose another output folder, or pass --overwrite."
        )
    written = {image.file for image in record.images.values()} | {record.labels_file, record.brain_mask_file}
    if record.fingerprint == mark and all((folder / name).is_file() for name in written if name is not None):
        return "up to date"
    extra = sorted(path.name for path in folder.iterdir() if path.name not in written | {"study.json"})
    if extra:
        raise FileExistsError(
            f"Inputs changed, but the output has files of its own: {folder}. Found {', '.join(extra)}; expected only "
            f"what `ummgat prepare` writes. Move them away, or pass --overwrite to remove them."
        )
    return "changed"
