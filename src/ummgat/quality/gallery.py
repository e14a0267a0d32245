"""Pictures of an evaluation: what the segmenter made of each substitute, and translations in three planes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ummgat.core.domain import Domain
from ummgat.core.metrics import dice
from ummgat.core.study import LABELS, Study
from ummgat.evaluate.scenarios import Assignment, Method, Scenario, Substitute
from ummgat.evaluate.segmentation import Substitutes
from ummgat.model.weights import TrainedModel
from ummgat.quality.directions import generated, translator_of
from ummgat.quality.pictures import best_plane, brain_box, show
from ummgat.segment.contract import Segmenter

Volume = NDArray[np.uint8]

LABEL_COLORS = {"NCR": "#e41a1c", "ED": "#2ca02c", "ET": "#1f4fff"}
"""The paper's: necrotic core red, oedema green, enhancing tumour blue."""

NOT_SCANS = "generated images are not scans"


def overlays(model: TrainedModel, segmenter: Segmenter, study: Study, scenarios: Sequence[Scenario]) -> Figure:
    """Segmentations under each substitute, one scenario per row, over the true image that was taken away first.

    Parameters
    ----------
    study : Study
        Annotated, with all true images.
    scenarios : sequence of Scenario
        Each with something missing. Copies and translations come from the model's first-ranked available source.
    """
    images = Substitutes(model, study, segmenter.sequences)
    truth, complete = np.asarray(study.labels()), segmenter(images.true)
    plane = best_plane(study)
    box = brain_box(np.asarray(study.volume(study.sequences[0])[plane]) > 0)
    methods: tuple[Method, ...] = ("complete", "empty", "copy", "generate", "fuse")
    figure = Figure(figsize=(1.75 * (len(methods) + 1), 2.1 * len(scenarios) + 0.7), layout="constrained")
    grid = figure.subplots(len(scenarios), len(methods) + 1, squeeze=False)
    for row, scenario in zip(grid, scenarios, strict=True):
        shown = scenario.missing[0]
        _overlay(row[0], images.true[shown], truth, plane, box, f"{scenario.name} missing: truth")
        for axes, method in zip(row[1:], methods, strict=True):
            available = [q for q in segmenter.sequences if q not in scenario.missing]
            assignment: Assignment = tuple(
                (t, next((q for q in images.ranked.get(t, ()) if q in available), available[0]))
                for t in scenario.missing
            )
            possible = all(q in images.can_generate for pair in assignment for q in pair)
            if (method in ("generate", "fuse") and not possible) or (method == "fuse" and len(available) < 2):
                axes.axis("off")
                continue
            nothing = method in ("complete", "empty", "fuse")
            substitute = Substitute(method, "", () if nothing else assignment)
            given = images.true if method == "complete" else images.complete(scenario, substitute)
            found = complete if method == "complete" else segmenter(given)
            source = substitute.source
            title = f"{method}{f' from {source}' if source and method != 'copy' else f' of {source}' if source else ''}"
            _overlay(axes, given[shown], found, plane, box, f"{title}\nWT Dice {dice(found > 0, truth > 0):.2f}")
    handles = [Patch(color=color, label=name) for name, color in LABEL_COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(f"{study.subject}, plane {plane}: what the segmenter found; {NOT_SCANS}", fontsize=9)
    return figure


def stacks(model: TrainedModel, study: Study, source: str, target: str) -> Figure:
    """Source, translation and true image of one direction in axial, coronal and sagittal planes through the lesion."""
    voxels = np.asarray(study.volume(source))
    columns = {f"source {source}": voxels, f"generated {target}": translation(model, study, source, target)}
    if target in study.sequences:
        columns[f"true {target}"] = np.asarray(study.volume(target))
    lesion = study.lesion()
    where = lesion if lesion is not None and lesion.any() else voxels > 0
    center = [int(np.median(places)) for places in np.nonzero(where)]
    figure = Figure(figsize=(2.2 * len(columns), 6.6), layout="constrained")
    grid = figure.subplots(3, len(columns), squeeze=False)
    for axis, name in enumerate(("axial", "coronal", "sagittal")):
        inside = np.nonzero((voxels > 0).any(axis))
        cut = tuple(slice(int(i.min()), int(i.max()) + 1) for i in inside)
        for column, (title, volume) in enumerate(columns.items()):
            show(grid[axis, column], np.take(volume, center[axis], axis=axis)[cut], f"{title}, {name}")
    figure.suptitle(f"{study.subject}: {NOT_SCANS}", fontsize=9)
    return figure


def with_and_without(models: dict[str, TrainedModel], study: Study, directions: Sequence[tuple[str, str]]) -> Figure:
    """The same translations by several models, as with and without the lesion-aware module, beside source and truth."""
    plane = best_plane(study)
    box = brain_box(np.asarray(study.volume(study.sequences[0])[plane]) > 0)
    figure = Figure(figsize=(1.9 * (len(models) + 2), 2.2 * len(directions) + 0.3), layout="constrained")
    grid = figure.subplots(len(directions), len(models) + 2, squeeze=False)
    lesion = study.lesion()
    for row, (source, target) in zip(grid, directions, strict=True):
        pictures = {f"source {source}": np.asarray(study.volume(source))}
        pictures |= {f"{target}, {name}": translation(m, study, source, target) for name, m in models.items()}
        pictures[f"true {target}"] = np.asarray(study.volume(target))
        for axes, (title, volume) in zip(row, pictures.items(), strict=True):
            show(axes, volume[plane][box], title)
            if lesion is not None and lesion[plane].any():
                axes.contour(lesion[plane][box][::-1], levels=[0.5], colors="#e69f00", linewidths=0.7)
    figure.suptitle(f"{study.subject}, plane {plane}, outline: annotated lesion; {NOT_SCANS}", fontsize=9)
    return figure


def translation(model: TrainedModel, study: Study, source: str, target: str) -> Volume:
    """One direction within the study's center, as `ummgat complete` makes it. (plane, row, column) uint8."""
    own, wanted = (Domain(study.center, q) for q in (source, target))
    return generated(translator_of(model, np.array(study.volume(source)), own), wanted, model.criteria["mode"])


def _overlay(axes: object, image: Volume, labels: Volume, plane: int, box: tuple[slice, slice], title: str) -> None:
    show(axes, image[plane][box], title)
    chosen = labels[plane][box][::-1]
    colors = ListedColormap([LABEL_COLORS[name] for name in LABELS])
    axes.imshow(  # type: ignore[attr-defined]
        np.ma.masked_equal(chosen, 0), cmap=colors, vmin=1, vmax=len(LABELS), alpha=0.45, interpolation="nearest"
    )
