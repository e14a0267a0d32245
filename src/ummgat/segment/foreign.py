"""Foreign models as segmenters: prepared images in, our labels out, the model itself in a process of its own."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ummgat.segment.describe import describe_bundle, describe_nnunet, describe_onnx
from ummgat.segment.meanings import Labels, Meaning, ours
from ummgat.segment.process import Worker
from ummgat.segment.unet import normalised

Describe = Callable[[Path, Mapping[str, Any], Sequence[str] | None, str | None], Meaning]

DESCRIBE: dict[str, Describe] = {"nnunet": describe_nnunet, "bundle": describe_bundle, "onnx": describe_onnx}


@dataclass
class ForeignSegmenter:
    """A model that others made. Call it with one image per sequence; end its process with `close`."""

    worker: Worker
    meaning: Meaning
    spacing_mm: float
    """Voxel size of the images it will be given."""
    hash: str
    """Of its files and of what is known of it."""
    training: dict[str, Any] = field(default_factory=dict)
    """Empty: nobody says who it was trained on."""

    @property
    def sequences(self) -> tuple[str, ...]:
        """What it must be given."""
        return self.meaning.sequences

    @property
    def regions(self) -> Literal["multi", "wt"]:
        """What its labels mean: `multi` as `study.LABELS`, `wt` one whole tumour stored as ED."""
        return self.meaning.covers

    def __call__(self, images: Mapping[str, NDArray[np.uint8]]) -> Labels:
        """Segment.

        Parameters
        ----------
        images : mapping of sequence → ndarray (plane, row, column), uint8
            Prepared: RAS+, at `spacing_mm`, brain 1–255, background 0; zeros for an empty one.

        Returns
        -------
        ndarray (plane, row, column), uint8
            `study.LABELS`.

        Raises
        ------
        ValueError
            If a sequence is not given; if the model raises, dies, hangs or answers with what means nothing.
        """
        absent = [q for q in self.sequences if q not in images]
        if absent:
            raise ValueError(
                f"Image is missing: {', '.join(absent)}. Found {', '.join(images)}; expected "
                f"{', '.join(self.sequences)}. Give zeros where a sequence is to be empty."
            )
        meaning = self.meaning
        chosen = [np.asarray(images[q]) for q in self.sequences]
        values = normalised(chosen) if meaning.normalisation == "zscore" else np.stack(chosen).astype(np.float32)
        if meaning.normalisation == "unit":
            values /= 255
        x = np.ascontiguousarray(np.stack([_turned(image, meaning) for image in values]))
        request = {
            "spacing_mm": [self.spacing_mm] * 3,
            "threshold": meaning.threshold,
            "outputs": len(meaning.regions or meaning.labels),
            "multiple": list(meaning.multiple),
            "window": meaning.window and list(meaning.window),
        }
        answer = self.worker.ask(request, x)
        return _turned_back(ours(answer, x.shape[1:], meaning, str(self.worker.path)), meaning)

    def close(self) -> None:
        """End the process. It starts again when called."""
        self.worker.end()


def open_foreign(
    kind: str,
    path: Path,
    spacing_mm: float,
    timeout_s: float = 600.0,
    sequences: Sequence[str] | None = None,
    orientation: str | None = None,
    python: Path | None = None,
) -> ForeignSegmenter:
    """Start the process of a foreign model that is trusted, and find out what it means.

    Parameters
    ----------
    kind : str
        nnunet, bundle or onnx.
    path : Path
    spacing_mm : float
        Voxel size of the images it will be given.
    timeout_s : float
        For opening and for each answer.
    sequences : sequence of str, optional
        Meaning of its channels in order; default: as it says itself.
    orientation : str, optional
        Where x, y and z grow to in the arrays it expects; default: as it says itself, or RAS.
    python : Path, optional
        Interpreter with its packages; default: this one.

    Raises
    ------
    FileNotFoundError, ValueError
        If it does not open, does not say what its channels mean, or needs another voxel size.
    """
    worker = Worker(kind, path, timeout_s, python)
    if kind == "nnunet":  # says all in JSON, and is slow to open
        DESCRIBE[kind](path, {}, sequences, orientation)
    about = worker.start()
    try:
        meaning = DESCRIBE[kind](path, about, sequences, orientation)
        needed = meaning.spacing_mm
        if needed is not None and abs(needed - spacing_mm) > 0.01 * needed:
            raise ValueError(
                f"Segmenter needs another voxel size: {path}. Found images of {spacing_mm:g} mm; expected {needed:g} "
                f"mm. Prepare the cohort with --spacing {needed:g}."
            )
    except BaseException:
        worker.end()
        raise
    return ForeignSegmenter(worker, meaning, spacing_mm, _hash(_files(kind, path), path, meaning))


def _turned(image: NDArray[np.float32], meaning: Meaning) -> NDArray[np.float32]:
    """RAS (plane, row, column) → the model's axes."""
    turned = nib.orientations.apply_orientation(image.T, _turn("RAS", meaning.orientation))
    return turned if meaning.axes == "xyz" else turned.T


def _turned_back(labels: Labels, meaning: Meaning) -> Labels:
    back = labels if meaning.axes == "xyz" else labels.T
    return np.ascontiguousarray(nib.orientations.apply_orientation(back, _turn(meaning.orientation, "RAS")).T)


def _turn(start: str, end: str) -> NDArray[np.float64]:
    codes = [nib.orientations.axcodes2ornt(c) for c in (start, end)]
    turn: NDArray[np.float64] = nib.orientations.ornt_transform(*codes)
    return turn


def _files(kind: str, path: Path) -> Iterable[Path]:
    """What the model consists of; nnU-Net folders also hold predictions of gigabytes."""
    if kind == "nnunet":
        return [path / "dataset.json", path / "plans.json", *path.glob("fold_*/checkpoint_final.pth")]
    if kind == "bundle":
        return [f for f in path.rglob("*") if f.suffix in {".json", ".yaml", ".yml", ".pt", ".ts", ".py"}]
    return [f for f in path.parent.iterdir() if f.name.startswith(path.name) and f.is_file()]


def _hash(files: Iterable[Path], path: Path, meaning: Meaning) -> str:
    """First 16 hex digits of a SHA-256 over names, contents, and what is known of the model."""
    digest = hashlib.sha256(json.dumps(asdict(meaning)).encode())
    for file in sorted(files):
        digest.update(f"\n{file.relative_to(path if path.is_dir() else path.parent).as_posix()}\n".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
