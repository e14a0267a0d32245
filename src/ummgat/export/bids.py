"""A completed study as BIDS derivatives: names and sidecars from which nobody can take a generated image for a scan."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ummgat.core.files import csv_text, write_json, write_text
from ummgat.core.placement import placement_of
from ummgat.core.study import LABELS
from ummgat.core.version import __version__
from ummgat.core.volume import read_volume, write_volume
from ummgat.export.completed import CompletedImage, CompletedStudy
from ummgat.export.wording import MARK, Wording, shown, sources_of

_NAMES = {
    "t1": ("anat", "", "T1w"),
    "t1ce": ("anat", "ce-gadolinium", "T1w"),
    "t2": ("anat", "", "T2w"),
    "flair": ("anat", "", "FLAIR"),
    "swi": ("swi", "", "swi"),
    "dwi": ("dwi", "", "trace"),
    "asl": ("perf", "", "cbf"),
    "hardi": ("dwi", "", "FA"),
}
"""Folder, further entity and suffix of each sequence; the last four are maps for which BIDS 1.9 has no name."""

_SCAN = "space-orig"
"""Where an image lies on the grid of the scan that it was generated from."""

_README = f"""Studies completed by UMMGAT {__version__}

Images with desc-synthetic in their name were not acquired by a scanner: a neural network computed them from other
sequences of the same patient. Their sidecars say from which, by which model and how. A synthetic ce-gadolinium image is
what the network expects after contrast agent, whether any was given or not; without a contrast-enhanced source,
enhancement shown or absent in it means nothing.

Not for diagnosis or treatment.
"""

_IGNORED = ".ummgat.json\n*_desc-reliability*\n*_swi.*\n*_trace.*\n*_cbf.*\n*_FA.*\n"


def bids_label(subject: str) -> str:
    """Letters and digits of a subject's name, as BIDS demands, without a leading `sub-`.

    Raises
    ------
    ValueError
        If nothing is left.

    Examples
    --------
    >>> bids_label("Phantom_A_001"), bids_label("sub-07")
    ('PhantomA001', '07')
    """
    label = re.sub(r"[^A-Za-z0-9]", "", re.sub(r"^sub-", "", subject))
    if not label:
        raise ValueError(
            f"Subject has no BIDS label: {subject}. Found no letters a-z or digits; expected some. Rename the subject."
        )
    return label


def write_dataset(out: Path, labels: list[str]) -> None:
    """Write what a BIDS dataset says of itself: description, README, participants, and what a validator need not
    know.
    """
    description = {
        "Name": f"Studies completed by UMMGAT, in part {MARK}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "ummgat",
                "Version": __version__,
                "Description": f"Images with desc-synthetic are {MARK}: computed by a neural network, not acquired.",
            }
        ],
    }
    write_json(out / "dataset_description.json", description)
    write_text(out / "README", _README)
    write_text(out / ".bidsignore", _IGNORED)
    rows = "".join(f"sub-{label}\n" for label in sorted(labels))
    write_text(out / "participants.tsv", "participant_id\n" + rows)


def write_subject(study: CompletedStudy, folder: Path, label: str) -> list[str]:
    """Write one study.

    Parameters
    ----------
    study : CompletedStudy
    folder : Path
        What will be `sub-<label>`.
    label : str

    Returns
    -------
    list of str
        Images, relative to `folder`. Voxels and grid as they were, under clean headers: what other programs leave in
        headers may name the patient. float64 becomes float32.
    """
    written = []
    places = {image.sequence: _place(image, label) for image in study.images if image.acquired}
    for image, space in (*((i, "") for i in study.images), *((i, _SCAN) for i in study.native)):
        place = _place(image, label, space)
        text = "" if image.acquired else Wording.of(image.provenance).short
        _write_image(image.file, folder / f"{place}.nii.gz", text)
        write_json(folder / f"{place}.json", _sidecar(image, study, places, label))
        written.append(f"{place}.nii.gz")
        if image.reliability is not None:
            place = place.replace("_desc-synthetic", "_desc-reliability") + "map"  # no reader must find it as a T2w
            note = f"Percent, how far to trust each voxel of the {MARK} {shown(image.sequence)}; 0 outside the brain"
            _write_image(image.reliability, folder / f"{place}.nii.gz", f"{MARK}: reliability, percent")
            write_json(folder / f"{place}.json", {"Description": note, "generated": True})
            written.append(f"{place}.nii.gz")
    if study.labels is not None:
        place = f"anat/sub-{label}_desc-tumour_dseg"
        _write_image(study.labels, folder / f"{place}.nii.gz", "")
        names = {LABELS["ED"]: "WT"} if study.whole_tumour_only else {number: name for name, number in LABELS.items()}
        rows = [{"index": 0, "name": "background"}, *({"index": i, "name": name} for i, name in names.items())]
        write_text(folder / f"{place}.tsv", csv_text(rows, ("index", "name")).replace(",", "\t"))
        written.append(f"{place}.nii.gz")
    return written


def _place(image: CompletedImage, label: str, space: str = "") -> str:
    """Folder and name without suffix."""
    folder, entity, suffix = _NAMES[image.sequence]
    kind = "preproc" if image.acquired else "syntheticAligned" if image.aligned else "synthetic"
    return f"{folder}/" + "_".join(part for part in (f"sub-{label}", entity, space, f"desc-{kind}", suffix) if part)


def _sidecar(image: CompletedImage, study: CompletedStudy, places: dict[str, str], label: str) -> dict[str, Any]:
    common = {"SkullStripped": True}
    if image.acquired:
        scale = ", scaled to 1-255 within the brain" if study.prepared else ""
        return {"Description": f"Acquired {shown(image.sequence)}, prepared{scale}", **common}
    provenance = dict(image.provenance)
    provenance.pop("source_files", None)  # names that a user gave to files may name the patient
    sources = [places[q] for q in sources_of(provenance) if q in places]
    return {
        "Description": Wording.of(provenance).long,
        **common,
        "Sources": [f"bids::sub-{label}/{place}.nii.gz" for place in sources],
        **provenance,
    }


def _write_image(source: Path, target: Path, description: str) -> None:
    data, grid = read_volume(source)
    data = data.astype(np.float32) if data.dtype == np.float64 else data
    write_volume(target, data, grid, description, placement_of(source))
