"""What a generated image says of itself wherever only its header is read: in ASCII, short, and without names of
centers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ummgat.core.domain import Domain
from ummgat.core.version import __version__

MARK = "SYNTHETIC"
"""The word that every header and every burned-in mark has; `intake` refuses a source whose header has it."""

_SHOWN = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
_LONG = 64  # characters of a DICOM LO, of SeriesDescription for one


@dataclass(frozen=True)
class Wording:
    """Texts for the header of one generated image."""

    short: str
    """At most 64 characters: SYNTHETIC, what, from what, by which model."""
    long: str
    """At most 1024 characters: the same with method, versions, and the warnings."""

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> "Wording":
        """Word the sidecar that `ummgat complete` wrote.

        Centers are left out: a center may be called after its hospital.

        Raises
        ------
        ValueError
            If the sidecar does not say what was generated, from what and by which model: nothing leaves without that.
        """
        lacking = [k for k in ("target", "sources", "checkpoint_hash") if not provenance.get(k)]
        if provenance.get("generated") is not True or lacking:
            raise ValueError(
                f"Sidecar does not say how the image was generated. Found no "
                f"{', '.join(lacking) or 'generated: true'}; expected what `ummgat complete` writes. Complete the "
                f"study again."
            )
        target, sources = sequence_of(provenance), sources_of(provenance)
        model = str(provenance["checkpoint_hash"])[:16]
        made = f"{MARK} {shown(target)} from {{}} by UMMGAT {model}"
        short = made.format("+".join(map(shown, sources)))
        if len(short) > _LONG:
            short = made.format(f"{len(sources)} sequences")
        how = (
            f"{MARK}: not acquired by a scanner. {shown(target)} computed by a neural network from "
            f"{', '.join(map(shown, sources))} of the same patient (method {provenance.get('method', 'generate')}, "
            f"code {provenance.get('code_mode', 'unknown')}, at {provenance.get('generated_at_mm', '?')} mm)."
        )
        parts = [
            how,
            f"Model {model}, {provenance.get('software') or f'ummgat {__version__}'}.",
            str(provenance.get("notice") or "Not a scan, not for diagnosis."),
            "Intensities are arbitrary units.",
            *map(str, provenance.get("warnings") or ()),
        ]
        return cls(ascii_only(short)[:_LONG], ascii_only(" ".join(parts))[:1024])


def sequence_of(provenance: Mapping[str, Any]) -> str:
    """Sequence that was generated."""
    return Domain.parse(str(provenance["target"])).sequence


def sources_of(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Sequences that it was generated from; the image lies in the grid of the first."""
    return tuple(Domain.parse(str(name)).sequence for name in provenance["sources"])


def shown(sequence: str) -> str:
    """Write a sequence as radiologists do.

    Examples
    --------
    >>> shown("t1ce"), shown("swi")
    ('T1ce', 'SWI')
    """
    return _SHOWN.get(sequence, sequence.upper())


def completed_with(sequences: Sequence[str]) -> str:
    """Say of a result that it rests on generated images; empty if it does not."""
    return f"study completed with {MARK} {', '.join(map(shown, sequences))}" if sequences else ""


def ascii_only(text: str) -> str:
    """Text that any character set holds; other characters become `?`, backslashes `/`."""
    return text.encode("ascii", "replace").decode("ascii").replace("\\", "/")
