"""Pictures of translations: montages that show anatomy, tumour and error at a glance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.core.domain import Domain
from ummgat.core.files import atomic_path
from ummgat.core.study import Study
from ummgat.model.translator import Translator
from ummgat.model.weights import TrainedModel

Volume = NDArray[np.uint8]


def best_plane(study: Study) -> int:
    """Plane with most lesion; without one, the plane with most brain."""
    lesion = study.lesion()
    area = (
        lesion.sum((1, 2))
        if lesion is not None and lesion.any()
        else (study.volume(study.sequences[0]) > 0).sum((1, 2))
    )
    return int(np.argmax(area))


def show(
    axis: Any, plane: NDArray[Any], title: str = "", limits: tuple[float, float] = (0, 255), colours: str = "gray"
) -> Any:
    """Draw one axial plane (row, column), front of the head at the top."""
    image = axis.imshow(plane[::-1], cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axis.set_title(title, fontsize=7)
    axis.set_xticks([])
    axis.set_yticks([])
    return image


def brain_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a plane that hold something of `mask`; all of them where nothing does."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    import matplotlib.pyplot as plt

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight")
    plt.close(figure)


def direction_grid(model: TrainedModel, study: Study, truth: Study, path: Path, mode: str | None = None) -> None:
    """All sources (rows) to all targets (columns) of one subject in the plane with most lesion, truth in the first row.

    Parameters
    ----------
    model : TrainedModel
    study, truth : Study
        Sources and true images; the same study where everything was acquired.
    path : Path
        PNG.
    mode : str, optional
        Code mode; default as validation chose.
    """
    figure_module = _agg()
    sequences = model.table.sequences_of(study.center)
    sources = [q for q in sequences if q in study.acquired]
    plane = best_plane(truth)
    codes = model.codes[mode or model.criteria["mode"]]
    box = brain_box(np.asarray(truth.volume(truth.sequences[0])[plane] > 0))
    figure, axes = figure_module.subplots(
        len(sources) + 1,
        len(sequences) + 1,
        figsize=(1.7 * (len(sequences) + 1), 2.0 * (len(sources) + 1)),
        layout="constrained",
        squeeze=False,
    )
    axes[0, 0].axis("off")
    for j, target in enumerate(sequences):
        if target in truth.sequences:
            show(axes[0, j + 1], truth.volume(target)[plane][box], f"true {target}")
        else:
            axes[0, j + 1].axis("off")
    for i, source in enumerate(sources):
        voxels = np.array(study.volume(source))
        translator = Translator(model, {source: voxels}, study.center)
        show(axes[i + 1, 0], voxels[plane][box], f"source {source}")
        for j, target in enumerate(sequences):
            code, own = (codes[model.table.index(Domain(study.center, q))] for q in (target, source))
            fake = translator.translate(source, Domain(study.center, target), (code, own), np.inf)[plane]
            show(axes[i + 1, j + 1], fake[box], f"generated {target}")
    figure.suptitle(
        f"{study.subject}, center {study.center}, plane {plane}: generated images are not scans", fontsize=8
    )
    save_figure(figure, path)


def comparison(rows: Sequence[tuple[str, Volume, Volume, Volume, Volume]], plane: int, path: Path, title: str) -> None:
    """Source, matched copy, generated, truth and signed difference, one row each.

    Parameters
    ----------
    rows : sequence of (label, source, matched, generated, truth)
        Volumes (plane, row, column), uint8.
    plane : int
    path : Path
        PNG.
    title : str
    """
    figure_module = _agg()
    figure, axes = figure_module.subplots(
        len(rows), 5, figsize=(9, 2.1 * len(rows)), layout="constrained", squeeze=False
    )
    drawn = None
    for row, (label, source, matched, generated, truth) in zip(axes, rows, strict=True):
        box = brain_box(truth[plane] > 0)
        names = ("source", "matched copy", "generated", "truth")
        for axis, name, volume in zip(row, names, (source, matched, generated, truth), strict=False):
            show(axis, volume[plane][box], f"{label}: {name}" if name == "source" else name)
        difference = generated[plane][box].astype(np.int16) - truth[plane][box].astype(np.int16)
        drawn = show(row[4], difference, "generated - truth", (-128, 128), "RdBu_r")
    figure.colorbar(drawn, ax=axes[:, 4].tolist(), label="grey levels (of 255)", shrink=0.6)
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)


def _agg() -> Any:
    """Give pyplot without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
