"""Atomic writing: whatever appears under its final name is complete."""

import csv
import errno
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-ummgat-"
"""What temporary files and folders start with; only those of a killed run stay."""

# EDQUOT does not exist on Windows.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a full disk or quota."""


@contextmanager
def atomic_path(path: Path, private: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block succeeds, remove it when not.

    The temporary name keeps the suffixes of `path`, because writers choose the format by them. With `private` nobody
    but the owner can read the file, at no moment.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if not private:
            umask = os.umask(0)  # mkstemp makes files private; give the user's usual permissions
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:  # Ctrl-C included: nothing half-written may stay
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block succeeds and vanishes when not.

    A link at `path` is replaced, never followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    aside = temporary.with_name(temporary.name + "-old")
    try:
        yield temporary
        umask = os.umask(0)  # mkdtemp makes folders private; give the user's usual permissions
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if os.path.lexists(path):
            path.rename(aside)
        temporary.rename(path)
    except BaseException:  # Ctrl-C included
        if os.path.lexists(aside) and not os.path.lexists(path):
            aside.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if aside.is_symlink() or aside.is_file():
        aside.unlink()  # a link is taken away, what it leads to stays
    else:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def explained_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk or quota into an OSError that says so and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"Disk is full: {path}. Found no space; expected room for it. Free some space and run again: finished "
            f"studies are kept, and nothing half-written is left.",
        ) from error


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Write UTF-8 text atomically; with `private` for its owner's eyes alone."""
    with atomic_path(path, private) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str, durable: bool = False) -> None:
    """Add UTF-8 text to a file, or begin it; with `durable` it is on the disk when this returns.

    Raises
    ------
    ValueError
        There is a link: what it leads to may be anything, and is not written to.
    """
    handle = _opened_here(path, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(handle, "a", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _opened_here(path: Path, flags: int) -> int:
    """Open or make a file that is no link; a descriptor."""
    try:
        return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if not path.is_symlink():
            raise
        raise ValueError(
            f"Output is a link: {path}. Found a link to {path.readlink()}; expected a file of this folder, or none. "
            f"Remove it."
        ) from error


def write_json(path: Path, value: Any, private: bool = False) -> None:
    """Write indented JSON atomically; with `private` for its owner's eyes alone."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", private)


def read_json(path: Path) -> Any:
    """Read JSON; ValueError naming the file and position if it is broken, FileNotFoundError if absent."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"File is missing: {path}. Found nothing there; expected a JSON file. Check the path, or make it first."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"File is not valid JSON: {path}. Found {error}; expected one JSON value. Restore or make it again."
        ) from error


def require_new(path: Path, overwrite: bool) -> None:
    """Refuse to replace an existing file or non-empty folder unless `overwrite`."""
    path = Path(path)
    taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken and not overwrite:
        raise FileExistsError(
            f"Output exists already: {path}. Found a file or a folder with content; expected a new path. "
            "Choose another, or pass --overwrite."
        )


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], header: bool = True) -> str:
    """Rows as CSV with these columns, one line each; columns that a row lacks are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time write to `folder`; the system ends the hold with the process, however that ends.

    Raises
    ------
    ValueError
        If another one does. Where the system has no such holds (Windows), nothing is checked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = _opened_here(
        folder / ".lock", os.O_RDWR
    )  # nothing is emptied: a foreign folder may hold a file of this name
    with os.fdopen(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"Folder is in use: {folder}. Found another process writing to it; expected none. Wait until it has "
                "finished, or choose another folder."
            ) from error
        yield


def remove_leftovers(out: Path, older_than_s: float = 3600.0) -> None:
    """Remove temporary folders of killed runs; younger ones may belong to a run that is still busy."""
    for folder in out.glob(TEMPORARY + "*"):
        if time.time() - folder.stat().st_mtime > older_than_s:
            shutil.rmtree(folder, ignore_errors=True)
