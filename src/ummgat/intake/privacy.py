"""Patients are told apart by salted hashes and shown under invented labels; what names them is taken out of every
text.
"""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ummgat.core.files import read_json, write_json

_FORMAT = "ummgat-key-1"
_HIDDEN = "…"
_TWO_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae"})


@dataclass(frozen=True)
class Identity:
    """What a header says about who the patient is. Kept in memory only, and never printed."""

    name: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)
    others: tuple[str, ...] = field(default=(), repr=False)
    """Further numbers and names: other IDs, accession number, referring physician."""

    @property
    def known(self) -> bool:
        """False if the header says nothing, as after anonymisation."""
        return bool(_folded(self.name) or _folded(self.patient_id))

    @property
    def key(self) -> str:
        """Equal for one patient: ID, name (whatever its case, accents and separators) and birth date."""
        return "|".join((_folded(self.patient_id), _folded(self.name), _folded(self.birth_date)))

    def words(self) -> set[str]:
        """Folded words that must not be shown."""
        parts = [*re.split(r"[\^=\s,;_.-]+", self.name), self.name, self.patient_id, *self.others]
        found = {spelling for part in parts for spelling in _spellings(part)}
        born = re.sub(r"\D", "", self.birth_date)
        if len(born) == 8:
            year, month, day = born[:4], born[4:6], born[6:]
            found |= {born, day + month + year, month + day + year, day + month + year[2:], year[2:] + month + day}
        return {word for word in found if len(word) > 1}


class Key:
    """The salt and the labels given out, kept in a private file so that a later look gives the same ones."""

    def __init__(self, salt: str | None = None, labels: dict[str, str] | None = None) -> None:
        self.salt = salt or secrets.token_hex(16)
        self._labels = dict(labels or {})

    @classmethod
    def read(cls, path: Path) -> "Key":
        """Read a key; a new one if there is no file."""
        if not path.is_file():
            return cls()
        value = read_json(path)
        labels = value.get("labels") if isinstance(value, dict) else None
        salt = value.get("salt") if isinstance(value, dict) else None
        if not isinstance(labels, dict) or not isinstance(salt, str) or value.get("format") != _FORMAT:
            raise ValueError(
                f"Key of subject labels is not valid: {path}. Found no salt and labels; expected what `ummgat inspect` "
                f"wrote. Restore it, or inspect into a new CSV: the subjects then get new labels."
            )
        return cls(salt, {str(code): str(label) for code, label in labels.items()})

    def write(self, path: Path) -> None:
        """Write the key, readable by its owner only: with it and a list of patients, labels could be traced."""
        write_json(path, {"format": _FORMAT, "salt": self.salt, "labels": self._labels}, private=True)

    def code(self, *parts: str) -> str:
        """Twelve hexadecimal digits that say nothing about `parts` to whoever lacks the salt."""
        text = "\0".join(parts).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, key=bytes.fromhex(self.salt), digest_size=6).hexdigest()

    def label_all(self, keys: Iterable[str]) -> dict[str, str]:
        """Patient → label: the one given before, else the next free of S001, S002, … in the order of the hashes."""
        codes = {key: self.code("patient", key) for key in keys}
        taken = set(self._labels.values())
        number = 0
        for code in sorted(set(codes.values()) - set(self._labels)):
            while (label := f"S{(number := number + 1):03d}") in taken:
                pass
            self._labels[code] = label
            taken.add(label)
        return {key: self._labels[code] for key, code in codes.items()}


def key_path(sheet: Path) -> Path:
    """Where the key of a sheet lies: beside it."""
    return sheet.with_name(sheet.stem + ".key.json")


def redact(text: str, words: frozenset[str]) -> str:
    """Replace every word of `text` that holds one of `words` (see `Identity.words`).

    Short ones (two or three letters) must be the whole word, longer ones may be a part of it.

    Examples
    --------
    >>> redact("T1 Müller, nativ", frozenset(Identity("MULLER^J").words()))
    'T1 …, nativ'
    """
    parts = re.split(r"([\s,;/\\|^=()\[\]]+)", text)

    def names(part: str) -> bool:
        pieces = {spelling for piece in re.split(r"[\W_]+", part) for spelling in _spellings(piece)}
        return not words.isdisjoint(pieces | _spellings(part)) or _holds(part, words, 4)

    shown = "".join(part if i % 2 or not names(part) else _HIDDEN for i, part in enumerate(parts))
    # A name or date written with spaces, dots or dashes ("4 7 1 1", "03.02.1961") spans several words.
    return _HIDDEN if _holds(shown, words, 6) else shown


def _holds(text: str, words: frozenset[str], shortest: int) -> bool:
    """Whether a word of at least `shortest` letters is part of `text`; as quick with the words of many patients as of
    one.
    """
    lengths = [n for n in _lengths(words) if n >= shortest]
    return any(flat[i : i + n] in words for flat in _spellings(text) for n in lengths for i in range(len(flat) - n + 1))


@lru_cache(maxsize=4)
def _lengths(words: frozenset[str]) -> tuple[int, ...]:
    return tuple(sorted({len(word) for word in words}))


def _spellings(text: str) -> set[str]:
    """`Müller` as muller and as mueller."""
    return {_folded(text), _folded(unicodedata.normalize("NFC", text).casefold().translate(_TWO_LETTERS))}


def _folded(text: str) -> str:
    """Letters and digits only, without case and accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in plain if c.isalnum())
