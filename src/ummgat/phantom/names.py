"""How a phantom's files are named and its labels numbered, as real datasets do it. The subject's name always says
Phantom.
"""

from typing import Literal

Layout = Literal["brats2018", "brats2023", "ucsf-pdgm"]

_NAMES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
_NAMES_UCSF = {
    "t1": "T1_bias",
    "t1ce": "T1c_bias",
    "t2": "T2_bias",
    "flair": "FLAIR_bias",
    "swi": "SWI_bias",
    "dwi": "DWI_bias",
    "asl": "ASL",
    "hardi": "DTI_eddy_FA",
    "seg": "tumor_segmentation",
}
LABELS_ON_DISK = {
    "brats2018": {"NCR": 1, "ED": 2, "ET": 4},
    "brats2023": {"NCR": 1, "ED": 2, "ET": 3},
    "ucsf-pdgm": {"NCR": 1, "ED": 2, "ET": 4},
}
"""Layout → name in `study.LABELS` → number in the file."""


def folder_name(subject: str, layout: Layout) -> str:
    """Name of a subject's folder in `layout`."""
    return f"{subject}_nifti" if layout == "ucsf-pdgm" else subject


def file_name(subject: str, sequence: str, layout: Layout, center: str | None = None) -> str:
    """Name of an image (or, with sequence `seg`, of the annotation) in `layout`; `center`: as that center would have
    scanned it.
    """
    suffix = "" if center is None else f"_as_{center}"
    if layout == "brats2023":
        return f"{subject}-{_NAMES_2023.get(sequence, sequence)}{suffix}.nii.gz"
    name = _NAMES_UCSF[sequence] if layout == "ucsf-pdgm" else sequence
    return f"{subject}_{name}{suffix}.nii.gz"
