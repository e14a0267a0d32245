"""A study on disk: THE layout that `prepare` writes and every later stage reads.

    cohort/
      cohort.json               how it was prepared, one line per subject
      <subject>/
        study.json              `StudyRecord`
        t1.nii  t2.nii …        uint8, RAS+, isotropic, brain 1–255, background exactly 0
        labels.nii              uint8, `LABELS`; absent when nobody annotated the subject

Uncompressed on purpose: any viewer opens it, a slice is one contiguous, memory-mapped read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ummgat.core.domain import SEQUENCES
from ummgat.core.files import read_json, write_json
from ummgat.core.paths import NiftiName, PlainName
from ummgat.core.placement import Placement
from ummgat.core.volume import UNREADABLE, Array, Grid, write_volume

LABELS = {"NCR": 1, "ED": 2, "ET": 3}
"""Label numbers inside UMMGAT, whatever the layout used on disk."""

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
"""Labels that make up each evaluated region: WT = NCR+ED+ET, TC = NCR+ET, ET."""

Kind = Literal["acquired", "copied", "generated", "fused"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GridRecord(_Record):
    """A `Grid` as JSON, NIfTI order (x, y, z)."""

    shape: tuple[int, int, int]
    affine: list[list[float]]

    @classmethod
    def of(cls, grid: Grid) -> "GridRecord":
        """Record `grid`."""
        return cls(shape=grid.shape, affine=[list(row) for row in grid.affine])

    def grid(self) -> Grid:
        """The grid this records."""
        return Grid.of(self.shape, np.array(self.affine))


class ImageRecord(_Record):
    """One sequence of a study: where its voxels are and where they come from."""

    file: NiftiName
    """File name inside the study folder."""
    kind: Kind = "acquired"
    source_file: str | None = None
    """Name (no folders: they may hold identifiers) of the file it was prepared from."""
    intensity_low: float | None = None
    """Raw intensity that became 1; None when the image has no raw scale (generated)."""
    intensity_high: float | None = None
    """Raw intensity that became 255; brighter voxels are clipped to 255."""
    clipped_fraction: float | None = None
    """Share of brain voxels outside [intensity_low, intensity_high]."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """For images that were not acquired: what made them, see `complete`."""


class RegistrationRecord(_Record):
    """How well one image was registered, see `prepare.register.Registration`."""

    metric: float
    """Mutual information, nats."""
    identity_metric: float
    sharpness: float
    problem: str | None = None


class AlignmentRecord(_Record):
    """How a study as scanned was brought to one grid, and the way back. Worlds are mm, RAS+."""

    reference: str
    """Sequence to which the others were registered."""
    template: str | None
    """None: the study was prepared already and left as it was."""
    stripped_by: str
    transforms: dict[str, list[list[float]]]
    """Sequence → (4, 4), rigid: from the world of its file to that of the study's grid. The inverse leads back."""
    original_grids: dict[str, GridRecord]
    """Sequence → grid of its file, in the file's own order of voxels."""
    registrations: dict[str, RegistrationRecord] = Field(default_factory=dict)
    """Sequence → to the reference; `template` → the reference to the template."""


class FindingRecord(_Record):
    """A warning about a study, with its number. Nothing was changed or left out because of it."""

    check: str
    """What was checked: sequence, copy, registration, strip, field of view, unlike."""
    images: list[str]
    """Sequences that it concerns; none if it is the whole study."""
    text: str
    value: float
    limit: float


class ChecksRecord(_Record):
    """What `ummgat.check` saw in a study."""

    checker: str
    """Hash of the file of learnt checks."""
    measured: dict[str, Any]
    """See `ummgat.check.measure.measure`."""
    findings: list[FindingRecord] = Field(default_factory=list)


class StudyRecord(_Record):
    """`study.json`."""

    format: Literal["ummgat-study-1"] = "ummgat-study-1"
    subject: PlainName
    center: PlainName
    grid: GridRecord
    """Grid of every file in the folder."""
    original_grid: GridRecord
    """Grid of the images it was prepared from; results go back to it."""
    images: dict[str, ImageRecord]
    labels_file: NiftiName | None = None
    """None means nobody annotated this subject, which is not the same as no lesion."""
    labels_regions: Literal["multi", "wt"] = "multi"
    """`wt`: the annotation is one whole-tumour mask, stored as ED; TC and ET are unknown."""
    brain_mask_file: NiftiName | None = None
    """With `prepare --raw`: uint8, 1 where the strip found the brain."""
    brain_voxels: int
    crop_lost_voxels: int = 0
    """Brain voxels outside the training crop named in cohort.json."""
    fingerprint: str = ""
    """Settings and input files it was prepared from, see `prepare.store`."""
    alignment: AlignmentRecord | None = None
    """With `prepare --raw`: the transforms; None when the study came registered."""
    findings: list[str] = Field(default_factory=list)
    """Remarks that did not keep the study from being prepared, for example voxel-identical sequences."""
    placements: dict[str, Placement] = Field(default_factory=dict)
    """With `prepare --raw`: sequence → what the header of its file says about its place, carried into what goes back
    there."""
    left_out: dict[str, list[str]] = Field(default_factory=dict)
    """Image file beside the acquired ones that was not understood → sequences that it may show; these are not
    generated."""
    checks: ChecksRecord | None = None
    """Quality control; None if the study was not checked."""

    @model_validator(mode="after")
    def _one_file_each(self) -> "StudyRecord":
        """What becomes a file name has one meaning, so that no file can be written over another."""
        unknown = sorted(set(self.images) - set(SEQUENCES))
        if unknown:
            raise ValueError(f"images: found {', '.join(map(repr, unknown))}; expected some of {', '.join(SEQUENCES)}")
        acquired = [image.file for image in self.images.values() if image.kind == "acquired"]
        made = sorted(
            name for name in (*acquired, self.labels_file, self.brain_mask_file) if name and "_generated" in name
        )
        if made:
            raise ValueError(
                f"found the name of a generated image: {', '.join(made)}; expected other names for what is none"
            )
        names = [image.file for image in self.images.values()] + [self.labels_file, self.brain_mask_file]
        folded = [name.casefold() for name in names if name is not None]
        if len(set(folded)) < len(folded):
            raise ValueError(
                f"one file stands for two things: found {', '.join(sorted(folded))}; expected each name once"
            )
        return self


@dataclass(frozen=True)
class Study:
    """A prepared study: its folder and what `study.json` says. Voxels are read when asked for."""

    folder: Path
    record: StudyRecord

    @property
    def subject(self) -> str:
        """Subject label."""
        return self.record.subject

    @property
    def center(self) -> str:
        """Center name."""
        return self.record.center

    @property
    def sequences(self) -> list[str]:
        """Sequences present, acquired or not, in the order of study.json."""
        return list(self.record.images)

    @property
    def acquired(self) -> list[str]:
        """Sequences that a scanner produced; only these may train or serve as source."""
        return [name for name, image in self.record.images.items() if image.kind == "acquired"]

    @property
    def grid(self) -> Grid:
        """Grid of the prepared files."""
        return self.record.grid.grid()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(plane, row, column) of every volume."""
        x, y, z = self.record.grid.shape
        return z, y, x

    def volume(self, sequence: str) -> NDArray[np.uint8]:
        """Voxels of one sequence.

        Returns
        -------
        ndarray of shape (plane, row, column), uint8
            Brain 1–255, background 0. Memory-mapped and read-only: copy before changing.
        """
        if sequence not in self.record.images:
            raise ValueError(
                f"Sequence is missing: {sequence} of subject {self.subject}. Found {', '.join(self.sequences)}; "
                "expected one of these. Complete the study first."
            )
        return self._read(self.record.images[sequence].file)

    def companion(self, name: str) -> NDArray[np.uint8]:
        """Another uint8 file of the study's folder on its grid, e.g. a reliability map; (plane, row, column),
        read-only.
        """
        return self._read(name)

    def labels(self) -> NDArray[np.uint8] | None:
        """Labels of shape (plane, row, column), uint8 numbered as `LABELS`; None if nobody annotated the subject."""
        return None if self.record.labels_file is None else self._read(self.record.labels_file)

    def lesion(self) -> NDArray[np.bool_] | None:
        """Whole-tumour mask of shape (plane, row, column); None if nobody annotated the subject."""
        labels = self.labels()
        return None if labels is None else np.asarray(labels > 0)

    def _read(self, name: str) -> NDArray[np.uint8]:
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"Study is incomplete: {path}. Found no file; expected what {self.folder / 'study.json'} lists. "
                "Run `ummgat prepare` on this subject again."
            )
        try:
            image = nib.Nifti1Image.from_filename(path, mmap="r")
            data = np.asanyarray(image.dataobj)  # uint8 without scaling: stays a memory map
        except (*UNREADABLE, ValueError) as error:
            raise ValueError(
                f"Prepared file is damaged: {path}. Found {error}; expected an uncompressed uint8 NIfTI. "
                "Run `ummgat prepare` on this subject again."
            ) from error
        if data.dtype != np.uint8 or data.shape != self.record.grid.shape:
            raise ValueError(
                f"Prepared file does not fit its study: {path}. Found {data.dtype} {data.shape}; "
                f"expected uint8 {self.record.grid.shape}. Run `ummgat prepare` on this subject again."
            )
        return data.T


def load_study(folder: Path) -> Study:
    """Read `study.json` of a prepared study; no voxels yet."""
    folder = Path(folder)
    value = read_json(folder / "study.json")
    try:
        return Study(folder, StudyRecord.model_validate(value))
    except ValidationError as error:
        raise ValueError(
            f"Study record is not valid: {folder / 'study.json'}. Found {error.error_count()} problems ({error}); "
            "expected what `ummgat prepare` writes. Prepare the subject again."
        ) from error


def header_text(sequence: str) -> str:
    """What the header of a generated NIfTI file says, for those who see neither its name nor its sidecar.

    Examples
    --------
    >>> header_text("t2")
    'SYNTHETIC t2 by ummgat, not a scan'
    """
    return f"SYNTHETIC {sequence} by ummgat, not a scan"


def write_study(folder: Path, record: StudyRecord, volumes: dict[str, Array], labels: Array | None) -> Study:
    """Write a prepared study; `study.json` comes last, so a folder that has one is complete.

    Parameters
    ----------
    folder : Path
    record : StudyRecord
        Its `images` name the files.
    volumes : dict of sequence → ndarray of shape (plane, row, column), uint8
    labels : ndarray of shape (plane, row, column), uint8, or None
    """
    grid = record.grid.grid()
    for sequence, volume in volumes.items():
        image = record.images[sequence]
        text = header_text(sequence) if image.kind in ("generated", "fused") else ""
        write_volume(folder / image.file, np.ascontiguousarray(volume).T.astype(np.uint8), grid, text)
    if labels is not None and record.labels_file is not None:
        write_volume(folder / record.labels_file, np.ascontiguousarray(labels).T.astype(np.uint8), grid)
    write_json(folder / "study.json", record.model_dump(mode="json"))
    return Study(folder, record)


def load_cohort(folder: Path) -> list[Study]:
    """Every prepared study directly below `folder`, sorted by subject; hidden folders are unfinished work and skipped.

    Raises
    ------
    ValueError
        If there is none; broken studies raise from `load_study`.
    """
    folder = Path(folder)
    found = sorted(path.parent for path in folder.glob("[!.]*/study.json")) if folder.is_dir() else []
    if not found:
        raise ValueError(
            f"No prepared study found: {folder}. Found 0 folders with a study.json; expected at least 1. "
            "Run `ummgat prepare` on your data first."
        )
    return [load_study(path) for path in found]


def require_spacing(study: Study, spacing_mm: float) -> None:
    """Raise ValueError unless the study is on a grid of this spacing."""
    found = study.grid.spacing_mm
    if max(abs(s - spacing_mm) for s in found) > 1e-3:
        raise ValueError(
            f"Study is on another grid: {study.subject}. Found voxels of {' x '.join(f'{s:g}' for s in found)} mm; "
            f"expected {spacing_mm:g} mm. Prepare the cohort with --spacing {spacing_mm:g}."
        )
