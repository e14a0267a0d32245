"""What `ummgat complete` wrote, read back: which images of a study were acquired and which were generated, and how."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ummgat.completion.native import NATIVE
from ummgat.core.domain import SEQUENCES
from ummgat.core.files import read_json
from ummgat.core.study import AlignmentRecord, Kind, load_study
from ummgat.core.volume import Grid
from ummgat.export.wording import Wording, sequence_of
from ummgat.intake.layouts import find_study

_IMAGE = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_GENERATED = re.compile(rf"(?:.*_)?({'|'.join(SEQUENCES)})_generated(_as-.+?)?(_reliability|_enhancement)?\.nii(\.gz)?")


@dataclass(frozen=True)
class CompletedImage:
    """One sequence of a completed study."""

    sequence: str
    kind: Kind
    file: Path
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """The sidecar of an image that was not acquired."""
    aligned: bool = False
    """Made to look like another center's."""
    reliability: Path | None = None

    @property
    def acquired(self) -> bool:
        """Whether a scanner produced it."""
        return self.kind == "acquired"


@dataclass(frozen=True)
class CompletedStudy:
    """A folder of `ummgat complete`."""

    subject: str
    images: list[CompletedImage]
    """Acquired ones first."""
    prepared: bool
    """On the grid of `ummgat prepare`, with intensities 1–255, not on that of the scan."""
    labels: Path | None = None
    """Annotation numbered as `study.LABELS`, of prepared studies."""
    whole_tumour_only: bool = False
    native: list[CompletedImage] = field(default_factory=list)
    """Generated images of a prepared study once more, on the grid of the scan."""
    alignment: AlignmentRecord | None = None
    """How a prepared study came from its scans."""
    grid: Grid | None = None
    """Of a prepared study."""

    @property
    def generated(self) -> list[CompletedImage]:
        """Images that were not acquired."""
        return [image for image in self.images if not image.acquired]


def completed_folders(folder: Path) -> list[Path]:
    """Folders of studies: `folder` itself, or those directly below it, sorted.

    Raises
    ------
    FileNotFoundError, ValueError
        No such folder, or no study in it.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Completed studies are missing: {folder}. Found no folder; expected one. Check the path."
        )
    if _is_study(folder):
        return [folder]
    found = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "." and _is_study(path)]
    if not found:
        raise ValueError(
            f"No completed study found: {folder}. Found no folder with NIfTI images; expected what `ummgat complete` "
            f"wrote. Complete the studies first."
        )
    return found


def _is_study(folder: Path) -> bool:
    return any(_IMAGE.search(path.name) and path.is_file() for path in folder.iterdir())


def read_completed(folder: Path) -> CompletedStudy:
    """Read one study; no voxels yet.

    Raises
    ------
    FileNotFoundError, ValueError
        A generated image without a sidecar that says how it was made, or images whose sequence is not clear.
    """
    study = _prepared(folder) if (folder / "study.json").is_file() else _raw(folder)
    for image in (*study.generated, *study.native):
        try:
            Wording.of(image.provenance)
        except ValueError as error:
            raise ValueError(f"Generated image cannot be passed on: {image.file}. {error}") from error
    return study


def _prepared(folder: Path) -> CompletedStudy:
    study = load_study(folder)
    images = []
    for sequence, record in study.record.images.items():
        file = folder / record.file
        map_file = file.with_name(file.stem + "_reliability.nii")
        images.append(
            CompletedImage(
                sequence,
                record.kind,
                file,
                record.provenance,
                "_generated_as-" in record.file,
                map_file if map_file.is_file() else None,
            )
        )
    labels = folder / study.record.labels_file if study.record.labels_file else None
    images.sort(key=lambda image: not image.acquired)
    native = folder / NATIVE
    found = sorted(native.iterdir()) if native.is_dir() else []
    return CompletedStudy(
        study.subject,
        images,
        True,
        labels,
        study.record.labels_regions == "wt",
        list(_generated_among(found)),
        study.record.alignment,
        study.grid,
    )


def _raw(folder: Path) -> CompletedStudy:
    files = [path for path in sorted(folder.iterdir()) if _IMAGE.search(path.name) and path.name[0] != "."]
    images = []
    if any("_generated" not in path.name for path in files):
        raw = find_study(folder)
        if raw.problems:
            raise ValueError("\n".join(raw.problems))
        images = [CompletedImage(sequence, "acquired", path) for sequence, path in raw.images.items()]
    return CompletedStudy(folder.name, [*images, *_generated_among(files)], False)


def _generated_among(files: Sequence[Path]) -> Iterator[CompletedImage]:
    for path in files:
        match = _GENERATED.fullmatch(path.name)
        if match and not match[3]:
            yield _of_raw(path, match)


def _of_raw(path: Path, match: re.Match[str]) -> CompletedImage:
    stem = _IMAGE.sub("", path.name)
    provenance = read_json(path.with_name(stem + ".json"))
    if not isinstance(provenance, dict) or not provenance.get("target") or sequence_of(provenance) != match[1]:
        raise ValueError(
            f"Sidecar does not fit its image: {path}. Found no target {match[1]} in it; expected what `ummgat "
            f"complete` wrote. Complete the study again."
        )
    map_file = path.with_name(path.name.replace(stem, stem + "_reliability"))
    kind: Kind = "fused" if provenance.get("method") == "fuse" else "generated"
    return CompletedImage(
        match[1], kind, path, provenance, match[2] is not None, map_file if map_file.is_file() else None
    )
