"""Walk a folder of anything and list what could be used, as what, and what speaks against it."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ummgat.core.files import TEMPORARY
from ummgat.intake.dicom_rows import dicom_rows
from ummgat.intake.file_rows import file_rows
from ummgat.intake.headers import NotImage, Plane, looks_like_dicom, read_planes
from ummgat.intake.images import kind_of
from ummgat.intake.privacy import Key, redact
from ummgat.intake.rows import Accept, Row
from ummgat.intake.settle import settle

_OTHER = """
json tsv csv txt md html htm xml pdf doc docx xls xlsx png jpg jpeg gif bmp tif tiff bval bvec mat npy npz log py m sh
zip gz tar 7z rar exe dll inf ini raw zraw h5 toml
"""
_NEVER_DICOM = {f".{suffix}" for suffix in _OTHER.split()}
_DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}


@dataclass
class Scan:
    """What a folder holds. Only rows and remarks may be shown."""

    folder: Path = field(repr=False)
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list, repr=False)
    """Files that look like DICOM and cannot be read. Their paths may name patients."""

    @property
    def subjects(self) -> list[str]:
        """Labels, sorted, each once."""
        return sorted({row.subject for row in self.rows})


def scan_folder(folder: Path, key: Key, progress: Callable[[int], None] | None = None, accept: Accept = "sure") -> Scan:
    """List every series and image file below `folder`.

    Parameters
    ----------
    folder : Path
        DICOM of any patients, BIDS, BraTS, UCSF-PDGM, loose NIfTI, MHA and NRRD files, in any mixture. Hidden files and
        folders are passed over, links to folders are not followed. Only headers are read, and voxels where two series
        may be copies.
    key : Key
        Gives the labels and learns new ones; write it to have the same ones next time.
    progress : callable, optional
        Called with the number of files looked at.
    accept : "sure" or "likely"
        How sure a proposal must be to be taken.

    Raises
    ------
    FileNotFoundError, ValueError
        No such folder, nothing in it that could be an image, or a package of the extra is missing.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"Source folder is missing: {folder}. Found no folder; expected one. Check the path.")
    scan = Scan(folder)
    images: list[Path] = []
    planes: list[Plane] = []
    left_out: Counter[str] = Counter()
    for number, path in enumerate(_files(folder), start=1):
        if progress is not None:
            progress(number)
        if kind_of(path):
            images.append(path)
        elif path.suffix.lower() in _NEVER_DICOM or not path.is_file():
            left_out["of other kinds"] += 1
        elif looks_like_dicom(path):
            found = read_planes(path)
            if isinstance(found, NotImage):
                left_out[found.reason] += 1
                scan.damaged += [path] if found.damaged else []
            else:
                planes += found
        elif path.suffix.lower() in _DICOM_SUFFIXES or path.stat().st_size == 0:
            left_out["empty or named like DICOM without being it"] += 1
            scan.damaged.append(path)
        else:
            left_out["of other kinds"] += 1
    hidden = frozenset(word for identity in {plane.identity for plane in planes} for word in identity.words())
    rows, scan.remarks = file_rows(images, folder, key, hidden)
    rows += dicom_rows(planes, key, hidden)
    scan.rows = settle(rows, accept)
    scan.remarks += [f"{n} {'file' if n == 1 else 'files'} left out: {why}" for why, n in sorted(left_out.items())]
    if not scan.rows:
        raise ValueError(
            f"No image found: {folder.name if redact(str(folder), hidden) == str(folder) else 'the folder'}. Found "
            f"{'; '.join(scan.remarks) or 'no files'}; expected DICOM, NIfTI, MHA or NRRD. Check the path."
        )
    return scan


def _files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted, without hidden ones."""
    found = []
    for home, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", TEMPORARY)))
        found += [Path(home, name) for name in sorted(names) if not name.startswith(".")]
    return found
