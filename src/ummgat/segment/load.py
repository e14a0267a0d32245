"""Any segmenter by its path: what kind it is shows in what the file or folder holds."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

from ummgat.segment.folds import CrossFitted, load_folds
from ummgat.segment.foreign import ForeignSegmenter, open_foreign
from ummgat.segment.unet import UnetSegmenter, load_segmenter

AnySegmenter: TypeAlias = UnetSegmenter | ForeignSegmenter | CrossFitted

SEGMENTERS: dict[str, Callable[..., AnySegmenter]] = {
    "own": load_segmenter,
    "folds": load_folds,
    "bundle": partial(open_foreign, "bundle"),
    "nnunet": partial(open_foreign, "nnunet"),
    "onnx": partial(open_foreign, "onnx"),
}
"""Kind → loader. All but `own` and `folds` run code that comes with the model."""


def kind_of(path: Path) -> str:
    """Kind of a segmenter, a `SEGMENTERS` name.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, or nothing known.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"Segmenter is missing: {path}. Found no file or folder; expected a segmenter. Check the path."
        )
    if path.is_file() and path.suffix in (".safetensors", ".onnx"):
        return "own" if path.suffix == ".safetensors" else "onnx"
    if any(path.glob("fold*/segmenter.safetensors")):
        return "folds"
    if (path / "configs" / "metadata.json").is_file():
        return "bundle"
    plans = (path / "dataset.json").is_file() and (path / "plans.json").is_file()
    if plans and any(path.glob("fold_*/checkpoint_final.pth")):
        return "nnunet"
    below = ", ".join(sorted(p.name for p in path.iterdir())[:8]) if path.is_dir() else f"{path.suffix or 'no suffix'}"
    raise ValueError(
        f"Segmenter is of no known kind: {path}. Found {below or 'an empty folder'}; expected a .safetensors file or "
        f"the folds of `ummgat train-segmenter`, an .onnx file, a MONAI bundle (configs/metadata.json), or a trained "
        f"nnU-Net v2 folder (dataset.json, plans.json, fold_*/checkpoint_final.pth). Choose one of these."
    )


def load_any(
    path: Path,
    spacing_mm: float,
    trust: bool = False,
    timeout_s: float = 600.0,
    sequences: Sequence[str] | None = None,
    orientation: str | None = None,
    python: Path | None = None,
    device: torch.device | None = None,
) -> AnySegmenter:
    """Load a segmenter of any kind.

    Parameters
    ----------
    path : Path
    spacing_mm : float
        Voxel size of the images it will be given.
    trust : bool
        Let a foreign model run: its files can hold code.
    timeout_s, sequences, orientation, python
        Of a foreign model, see `open_foreign`.
    device : torch.device, optional
        Of an own one; foreign ones choose for themselves.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is of no known kind, is foreign and not trusted, or does not load.
    """
    kind = kind_of(path)
    if kind in ("own", "folds"):
        return SEGMENTERS[kind](path, device)
    if not trust:
        raise ValueError(
            f"Segmenter is not trusted: {path}. Found a foreign model ({kind}), whose files can run any code as you; "
            f"expected --trust. Give it if you know who made the model."
        )
    return SEGMENTERS[kind](path, spacing_mm, timeout_s, sequences, orientation, python)
