"""Phantom cohorts on disk: what the hospital has, and the whole truth beside it."""

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ummgat.core.domain import SEQUENCES, check_sequence
from ummgat.core.files import require_new, write_json, write_text
from ummgat.core.study import LABELS
from ummgat.core.volume import Array, Grid, write_volume
from ummgat.phantom.anatomy import Frame, analytic_frame, brats_frame
from ummgat.phantom.names import LABELS_ON_DISK, Layout, file_name, folder_name
from ummgat.phantom.raw import Head, make_head, scan_raw
from ummgat.phantom.scanner import Scanner, make_scanner
from ummgat.phantom.subject import Body, Kind, make_body, scan

Part = Literal["train", "selection", "test"]

_SETTINGS = "phantom.json"


class PhantomConfig(BaseModel):
    """A multi-center cohort. Dictionaries go by center; the order of `n_subjects` is the order of the centers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_subjects: dict[str, int] = Field(default={"A": 12, "B": 6}, description="training subjects of each center")
    n_selection: dict[str, int] = Field(default={}, description="selection subjects of each center")
    n_test: dict[str, int] = Field(default={}, description="test subjects of each center")
    n_healthy: dict[str, int] = Field(default={}, description="further test subjects without a tumour")
    sequences: dict[str, tuple[str, ...]] = Field(
        default={"A": ("t1", "t1ce", "t2", "flair"), "B": ("t1", "t2")}, description="what each center scans"
    )
    draw: Literal["strict", "all", "complete"] = Field(
        default="strict",
        description="a training subject has: one sequence | a random non-empty part | everything its center scans",
    )
    n_available_test: int | None = Field(
        default=None,
        ge=1,
        description="sequences of a selection or test subject, at random; none given = all its center scans",
    )
    annotated: float = Field(
        default=1.0, ge=0, le=1, description="share of training subjects with a seg file; others are always annotated"
    )
    truth_sequences: tuple[str, ...] | None = Field(
        default=None, description="sequences in truth/; default all that any center scans"
    )
    align_truth: bool = Field(
        default=False, description="also write each subject as every other center would have scanned it"
    )
    grid: Literal["brats", "analytic"] = Field(
        default="brats", description="MNI anatomy on BraTS's field of view, or a 24x28x28 miniature"
    )
    spacing_mm: float = Field(default=1.0, gt=0)
    raw: bool = Field(
        default=False, description="studies/ as scanned: heads, a grid per sequence, no annotation; see `phantom.raw`"
    )
    layout: Layout = "brats2018"
    layouts: dict[str, Layout] = Field(
        default={},
        description="layout of centers that name their files otherwise; each center then has a folder of its own",
    )
    tumour: Kind = "glioma"
    first_scanner: int = Field(
        default=0, ge=0, description="kind of the first center's scanner, so that two cohorts can differ as centers do"
    )
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "PhantomConfig":
        centers = list(self.n_subjects)
        counts = (self.n_subjects, self.n_selection, self.n_test, self.n_healthy)
        stray = sorted({c for d in (*counts, self.sequences, self.layouts) for c in d} - set(centers))
        if stray or set(self.sequences) != set(centers) or not centers:
            raise ValueError(
                f"Centers do not agree: phantom config. Found sequences for {sorted(self.sequences)}, counts for "
                f"{centers}{' and for ' + ', '.join(stray) if stray else ''}; expected the same centers. Name each in "
                f"n_subjects and sequences."
            )
        for center, names in self.sequences.items():
            if not names or len(set(names)) != len(names):
                raise ValueError(
                    f"Bad sequences: phantom center {center}. Found {list(names)}; expected distinct names, at least "
                    f"one. Correct them."
                )
            for name in names:
                check_sequence(name, f"phantom center {center}")
        for name in self.truth_sequences or ():
            check_sequence(name, "phantom truth_sequences")
        if any(n < 0 for d in counts for n in d.values()):
            raise ValueError("Negative count: phantom config. Found a number below 0; expected 0 or more. Correct it.")
        bad = [c for c in centers if not c or not c.replace("-", "").isalnum()]
        if bad:
            raise ValueError(
                f"Bad center name: phantom config. Found {bad}; expected letters, digits and '-', as it becomes part "
                f"of folder names. Rename the center."
            )
        if self.raw and self.grid != "brats":
            raise ValueError(
                f"Miniatures have no heads: phantom config. Found raw with grid {self.grid}; expected the grid brats. "
                f"Change one."
            )
        if self.grid == "brats" and not 0.5 <= self.spacing_mm <= 6:
            raise ValueError(
                f"Bad voxel size: phantom config. Found {self.spacing_mm} mm; expected 0.5 to 6 on the BraTS grid. "
                f"Change spacing_mm."
            )
        return self

    @property
    def all_sequences(self) -> tuple[str, ...]:
        """What truth/ holds for every subject, in `SEQUENCES` order."""
        wanted = set(self.truth_sequences or ()) | {name for names in self.sequences.values() for name in names}
        return tuple(name for name in SEQUENCES if name in wanted)

    def frame(self) -> Frame:
        """Make the voxels of every file."""
        return brats_frame(self.spacing_mm) if self.grid == "brats" else analytic_frame(self.spacing_mm)

    def scanners(self) -> dict[str, Scanner]:
        """Center → scanner."""
        return {
            center: make_scanner(center, i + self.first_scanner, self.seed) for i, center in enumerate(self.n_subjects)
        }

    def layout_of(self, center: str) -> Layout:
        """How the files of `center` are named."""
        return self.layouts.get(center, self.layout)

    def folder(self, part: str, member: "Member") -> Path:
        """Folder of a subject below `out`; `part` is studies or truth."""
        parent = Path(part, member.center) if self.layouts else Path(part)
        return parent / folder_name(member.name, self.layout_of(member.center))


class Member(BaseModel):
    """One subject of a cohort and what its folder will hold."""

    name: str
    center: str
    part: Part
    healthy: bool
    annotated: bool
    available: tuple[str, ...]
    chosen: str
    """Its sequence in the strict draw."""
    seed: int


def plan_cohort(config: PhantomConfig) -> list[Member]:
    """Who is in the cohort, and who has what. Decided before anything is rendered."""
    members = []
    for index, (center, n_train) in enumerate(config.n_subjects.items()):
        rng = np.random.default_rng([config.seed, index, 29])
        sequences = config.sequences[center]
        parts: list[tuple[Part, bool]] = [("train", False)] * n_train
        parts += [("selection", False)] * config.n_selection.get(center, 0)
        parts += [("test", False)] * config.n_test.get(center, 0)
        parts += [("test", True)] * config.n_healthy.get(center, 0)
        masked = set(rng.permutation(n_train)[round(config.annotated * n_train) :].tolist())
        for number, (part, healthy) in enumerate(parts):
            chosen = sequences[number % len(sequences)]  # in turn, so that every domain gets its share
            available = sequences
            if part == "train" and config.draw == "strict":
                available = (chosen,)
            elif part == "train" and config.draw == "all":
                kept = rng.random(len(sequences)) < 0.6
                available = tuple(s for s, keep in zip(sequences, kept, strict=True) if keep or s == chosen)
            elif part != "train" and config.n_available_test is not None:
                n = min(config.n_available_test, len(sequences))
                picked = set(rng.permutation(len(sequences))[:n].tolist())
                available = tuple(s for i, s in enumerate(sequences) if i in picked)
            members.append(
                Member(
                    name=f"Phantom_{center}_{number + 1:03d}",
                    center=center,
                    part=part,
                    healthy=healthy,
                    annotated=part != "train" or number not in masked,
                    available=available,
                    chosen=chosen,
                    seed=int(np.random.SeedSequence([config.seed, index, number]).generate_state(1)[0]),
                )
            )
    return members


def write_phantom(out: Path, config: PhantomConfig, overwrite: bool = False) -> Path:
    """Write a cohort.

    `out/studies/<subject>/` (with `layouts`: `out/studies/<center>/<subject>/`) holds what the hospital has, in its
    layout; `out/truth/<subject>/` every sequence of every subject in its own center's contrast, also those never
    scanned, and the annotation; `out/split.json` the split and the strict draw; `out/centers.csv` subject and center;
    `out/phantom.json` the settings.

    Parameters
    ----------
    out : Path
        A new or empty folder.
    config : PhantomConfig
    overwrite : bool
        Replace a phantom cohort that was written there before. A folder that holds anything else is never touched.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    FileExistsError
        If `out` has content and `overwrite` is False, or the content is not a phantom cohort.
    """
    out = Path(out)
    own = (out / _SETTINGS).is_file()
    require_new(out, overwrite and own)
    for stale in ("studies", "truth"):
        if own and (out / stale).is_dir():
            shutil.rmtree(out / stale)
    (out / "split.json").unlink(missing_ok=True)
    write_json(out / _SETTINGS, config.model_dump(mode="json"))
    frame, scanners, members = config.frame(), config.scanners(), plan_cohort(config)
    for member in members:
        body = make_body(member.seed, frame, config.grid == "analytic", member.healthy, config.tumour)
        _write_member(out, config, member, body, scanners)
    lines = [f"{member.name},{member.center}" for member in members]
    write_text(out / "centers.csv", "\n".join(["subject,center", *lines]) + "\n")
    write_json(out / "split.json", _split(members))  # last: a cohort that has it is complete
    return out


def _write_member(out: Path, config: PhantomConfig, member: Member, body: Body, scanners: dict[str, Scanner]) -> None:
    """Write both folders of one subject. What was scanned is voxel for voxel the truth."""
    studies, truth = (out / config.folder(part, member) for part in ("studies", "truth"))
    layout = config.layout_of(member.center)
    grid = body.frame.grid
    for sequence in config.all_sequences:
        for center, scanner in scanners.items():
            if center != member.center and not config.align_truth:
                continue
            voxels = _as_stored(scan(body, scanner, sequence, member.seed), scanner, sequence, member.seed)
            other = center if center != member.center else None
            _save(truth / file_name(member.name, sequence, layout, other), voxels, grid)
            if other is None and sequence in member.available and not config.raw:
                _save(studies / file_name(member.name, sequence, layout), voxels, grid)
    labels = np.zeros(body.frame.shape, np.uint8)
    table = np.zeros(max(LABELS.values()) + 1, np.uint8)
    for name, number in LABELS.items():
        table[number] = LABELS_ON_DISK[layout][name]
    labels[body.box] = table[body.labels]
    _save(truth / file_name(member.name, "seg", layout), labels, grid)
    if config.raw:
        _write_raw(studies, truth, config, member, make_head(body, member.seed), scanners[member.center])
    elif member.annotated:
        _save(studies / file_name(member.name, "seg", layout), labels, grid)


def _write_raw(studies: Path, truth: Path, config: PhantomConfig, member: Member, head: Head, scanner: Scanner) -> None:
    """Write what was scanned, and beside the truth how the patient lay: anatomy's world → file's world, mm, RAS+."""
    moved = {}
    for sequence in member.available:
        image = scan_raw(head, scanner, sequence, member.seed)
        name = file_name(member.name, sequence, config.layout_of(member.center))
        write_volume(studies / name, image.data, image.grid)
        moved[sequence] = image.moved.tolist()
    write_json(truth / "transforms.json", {"anatomy_to_scan": moved})


def _as_stored(image: Array, scanner: Scanner, sequence: str, seed: int) -> Array:
    """int16 voxels on an arbitrary scale, another one for every scan, as scanners store them; brain stays above 0."""
    rng = np.random.default_rng([seed, SEQUENCES.index(sequence), scanner.index, 47])
    brain = image > 0
    bright = float(np.percentile(image[brain], 99.5))
    top = 900 * np.exp(rng.normal(0, 0.35)) * (scanner.gain / 400)
    scaled = np.clip(np.rint(image * (top / bright)), 1, 32000)
    return np.where(brain, scaled, 0).astype(np.int16)


def _save(path: Path, data: Array, grid: Grid) -> None:
    write_volume(path, np.ascontiguousarray(data).T, grid)


def _split(members: list[Member]) -> dict[str, object]:
    """Write down the split in the form `ummgat draw` reads."""
    parts = {part: [m.name for m in members if m.part == part] for part in ("train", "selection", "test")}
    return {
        "note": "Phantom cohort. selection: may be used, disclosed, to choose checkpoints and settings. test: looked "
        "at only for reported numbers.",
        "center": {m.name: m.center for m in members},
        **parts,
        "one_sequence_per_patient": {m.name: m.chosen for m in members if m.part == "train"},
    }
