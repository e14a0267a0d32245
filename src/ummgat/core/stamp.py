"""Whether a folder of results is finished and still what this call would make: a stamp of what it was made from.

The stamp is a hidden file inside the folder, which appears as a whole: no kill can leave one without the other.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ummgat.core.files import read_json, write_json

STAMP = ".ummgat.json"


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and modification time of files: what they are, without reading them or caring where they lie."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def fingerprint(*made_from: Any) -> str:
    """Sixteen digits that change with anything that the results depend on; values of JSON.

    Examples
    --------
    >>> fingerprint("model", [1, 2]) == fingerprint("model", [1, 2]) != fingerprint("model", [1, 3])
    True
    """
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def write_stamp(folder: Path, mark: str, files: Sequence[str], warnings: Sequence[str] = ()) -> None:
    """Say in `folder` what it was made from, what it holds, and what was said about it."""
    value = {"format": "ummgat-stamp-1", "fingerprint": mark, "files": list(files), "warnings": list(warnings)}
    write_json(folder / STAMP, value)


def up_to_date(folder: Path, mark: str, overwrite: bool) -> list[str] | None:
    """Decide whether `folder` is to be made.

    Returns
    -------
    list of str or None
        None if it must be made. Otherwise it is finished; the warnings of then.

    Raises
    ------
    FileExistsError
        It was made from something else, or by someone else, or files were taken out of it. Not with `overwrite`.
    """
    if overwrite or not folder.exists():
        return None
    stamp = read_json(folder / STAMP) if (folder / STAMP).is_file() else {}
    if stamp.get("fingerprint") == mark and all((folder / name).exists() for name in stamp["files"]):
        return list(stamp["warnings"])
    found = "one made from other files or with other settings" if stamp else "a folder"
    raise FileExistsError(
        f"Result exists already: {folder}. Found {found}; expected none, or what this call would make. Move it, or "
        f"pass --overwrite."
    )
