"""Files beside those that are understood: which sequences they may show. Until a person says, none of these is
generated.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ummgat.core.domain import SEQUENCES
from ummgat.intake.propose import says_other, words_of

_IMAGE = re.compile(
    r"\.(nii(\.(gz|bz2|xz|zst|zip))?|mha|mhd|nrrd|nhdr|hdr|img(\.gz)?|mgz|mgh|mnc|par|dcm|ima)$", re.IGNORECASE
)
_NOT_A_SEQUENCE = re.compile(
    r"(?<![a-z])(mask|seg|segmentation|labels?|roi|lesions?|tumou?r|prob(ability)?|pve|wm|gm|csf|warp|field|xfm|transform|jac|"
    r"jacobian|atlas|template|parc|aparc|aseg|ct|pet|wt|tc|et)(?![a-z])"
)
_ROOTS = (
    ("flair", ("flair",)),
    ("flr", ("flair",)),
    ("t2", ("t2",)),
    ("t1", ("t1", "t1ce")),
    ("rage", ("t1", "t1ce")),
    ("swi", ("swi",)),
    ("swan", ("swi",)),
    ("dwi", ("dwi",)),
    ("diff", ("dwi",)),
    ("asl", ("asl",)),
    ("cbf", ("asl",)),
    ("hardi", ("hardi",)),
    ("dti", ("hardi", "dwi")),
)
_AGENT = re.compile(r"(?<![a-z])(c|ce|gd|gad\w*|km|kontrast\w*|contrast|post\w*)(?![a-z])|t1w?[ _.-]?(c|ce|gd|km|post)")
_DEPTH = 2
_MOST = 1000


def may_be(stem: str) -> tuple[str, ...]:
    """Sequences that an image of this name may show; all where the name says nothing, none where it says it is
    something else.

    Examples
    --------
    >>> may_be("flair_reg"), may_be("T1KM"), may_be("t2tse"), may_be("T2_star"), may_be("wm_prob")
    (('flair',), ('t1ce',), ('t2',), (), ())
    >>> may_be("series7") == SEQUENCES
    True
    """
    text = re.sub(r"[_.:,;()\[\]]+", " ", stem.lower())
    if says_other(text) or _NOT_A_SEQUENCE.search(text):
        return ()
    squeezed = re.sub(r"[^a-z0-9]", "", text)
    found = words_of(text) | {q for root, sequences in _ROOTS if root in squeezed for q in sequences}
    if "flair" in found:
        found.discard("t2")
    if found & {"t1", "t1ce"}:
        found = found - {"t1"} | {"t1ce"} if _AGENT.search(text) else found | {"t1", "t1ce"}
    if not found and _AGENT.search(text):
        found = {"t1ce"}
    return tuple(q for q in SEQUENCES if q in found) or tuple(SEQUENCES)


def is_image(path: Path) -> bool:
    """Whether the name is that of an image of any kind, also of one that is not read here."""
    return _IMAGE.search(path.name) is not None


def image_stem(path: Path) -> str:
    """Name without the suffixes of an image."""
    return _IMAGE.sub("", path.name)


def others_below(folder: Path, known: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Image files in `folder` and its folders that are not among `known`: name relative to it → sequences they may
    show.

    Only files of other kinds than NIfTI are listed of `folder` itself, as it has been read. In its folders a name must
    speak: of `dicom/0001.dcm` nothing is said, of `flair/0001.dcm` its folder's name speaks. Hidden ones are passed
    over.
    """
    left_out: dict[str, tuple[str, ...]] = {}
    taken = set(known)
    for home, folders, names in os.walk(folder):
        here = Path(home)
        deep = len(here.relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and deep < _DEPTH)
        for name in sorted(names):
            path = here / name
            if name.startswith(".") or not is_image(path) or path in taken:
                continue
            sequences = may_be(image_stem(path))
            if deep and sequences == SEQUENCES:
                sequences = may_be(here.name)
                sequences = () if sequences == SEQUENCES else sequences
            if not deep or sequences:
                left_out[path.relative_to(folder).as_posix()] = sequences
            if len(left_out) >= _MOST:
                return left_out
    return left_out


def require_understood(
    left_out: Mapping[str, Sequence[str]], wanted: Iterable[str], allowed: Sequence[str], subject: str
) -> None:
    """Raise ValueError if a file that was left out may be one of the sequences that are about to be generated.

    Parameters
    ----------
    left_out : mapping of file name → sequences that it may show
    wanted : iterable of str
        Sequences to generate that nothing was found for.
    allowed : sequence of str
        Names or patterns of files of which the user says that they are none of these.
    subject : str
        For the message.
    """
    goal = set(wanted)
    found = {
        name: [q for q in sequences if q in goal]
        for name, sequences in left_out.items()
        if not any(fnmatchcase(name, pattern) for pattern in allowed)
    }
    found = {name: sequences for name, sequences in found.items() if sequences}
    if not found:
        return
    shown = "; ".join(f"{name} (may be {', '.join(sequences)})" for name, sequences in list(found.items())[:8])
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    raise ValueError(
        f"Acquired image may be there already: {subject}. Found {shown}{more}, not understood; expected to know that "
        f"none of them is what would be generated. Rename the file to say what it is, as flair.nii.gz, move it away, "
        f"or say --leave-out {next(iter(found))} if it is something else."
    )
