"""Names out of files that others wrote, before they become paths: one name, of one file or folder, inside the folder it
is said to be in.
"""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')


def is_plain(name: str) -> bool:
    """Whether a name can be that of one file or folder on any system, and leads nowhere else.

    Examples
    --------
    >>> is_plain("Klinik München 2"), is_plain("../t1.nii"), is_plain("C:t1.nii"), is_plain(".."), is_plain("")
    (True, False, False, False, False)
    """
    return bool(
        name
        and name == name.strip()
        and name[0] != "."
        and name[-1] != "."
        and len(name.encode(errors="replace")) <= 240
        and len(name) <= 120
        and not _UNSAFE.search(name)
    )


def _plain(name: str) -> str:
    if not is_plain(name):
        raise ValueError("expected one name of a file or folder, without / \\ : and the like, not starting with a dot")
    return name


def _nifti(name: str) -> str:
    if not _plain(name).endswith(".nii"):
        raise ValueError("expected the name of a .nii file")
    return name


PlainName = Annotated[str, AfterValidator(_plain)]
"""A field of a record that becomes the name of a folder, or part of one."""

NiftiName = Annotated[str, AfterValidator(_nifti)]
"""A field of a record that becomes the name of a file inside the folder of the record."""


def require_no_link(folder: Path) -> None:
    """Raise ValueError where results would go into a folder that is a link, and so lie elsewhere."""
    if Path(folder).is_symlink():
        raise ValueError(
            f"Output would lie elsewhere: {folder}. Found a link to {Path(folder).readlink()}; expected a folder. Copy "
            f"it here, or work in the place that it leads to."
        )


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, once more checked where something is about to be written or replaced.

    Raises
    ------
    ValueError
        It would lie elsewhere, or be the folder itself.
    """
    path = Path(folder, name)
    if not is_plain(name) or Path(os.path.normpath(path)).parent != Path(os.path.normpath(folder)):
        raise ValueError(
            f"Output would lie elsewhere: {folder}. Found the name {name!r}; expected one name inside this folder. "
            f"Rename the subject."
        )
    return path
