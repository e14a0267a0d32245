"""The command `ummgat train-segmenter`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ummgat.cli.options import Accelerator, ChangedData, Device
from ummgat.cli.terminal import comma_list, command, progress, say, split

if TYPE_CHECKING:
    import torch

    from ummgat.core.study import Study
    from ummgat.segment.unet import SegmenterConfig


@command(panel="Train", example="ummgat train-segmenter --data cohort --draw draw.json --out segmenter --drop 0.35")
def train_segmenter(
    data: Annotated[Path, typer.Option(help="Prepared cohort with labels.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`: its training subjects train.")],
    out: Annotated[Path, typer.Option(help="Run folder. The same command again goes on where it was.")],
    sequences: Annotated[str, typer.Option(help="What it is given.")] = "t1,t1ce,t2,flair",
    regions: Annotated[Literal["multi", "wt"], typer.Option(help="NCR, ED and ET, or the whole tumour.")] = "multi",
    centers: Annotated[str | None, typer.Option(help="Train on subjects of these centers only: A,B.")] = None,
    drop: Annotated[
        float, typer.Option(help="Sequence dropout: how often a training image is blanked. For the rival: 0.35.")
    ] = 0.0,
    dimensions: Annotated[Literal["2", "3"], typer.Option(help="Planes with neighbours, or 3-D (for a GPU).")] = "2",
    spacing: Annotated[float, typer.Option(help="Voxel size of the cohort in mm.")] = 2.0,
    iterations: Annotated[int, typer.Option(help="Training steps.")] = 1500,
    folds: Annotated[
        int | None,
        typer.Option(help="Cross-fit: so many segmenters, each blind to a part of all subjects of the draw."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    changed_data: ChangedData = False,
    device: Device = "auto",
    accelerator: Accelerator = None,
) -> None:
    """Train a U-Net that segments tumours from complete sequences, to see whether generated ones help it."""
    import torch

    from ummgat.core.draw import load_draw
    from ummgat.core.machine import choose_device
    from ummgat.core.study import load_cohort
    from ummgat.segment.train import train_segmenter as train
    from ummgat.segment.unet import SegmenterConfig, load_segmenter

    deep = dimensions == "3"
    config = SegmenterConfig(
        sequences=tuple(split([sequences])),
        regions=regions,
        spacing_mm=spacing,
        dimensions=3 if deep else 2,
        planes=1 if deep else 3,
        crop=(64, 80, 80) if deep else (1, 80, 80),
        batch=2 if deep else 8,
        drop=drop,
        iterations=iterations,
        seed=seed,
    )
    wanted, only = load_draw(draw), comma_list(centers)
    studies = [s for s in load_cohort(data) if only is None or s.center in only]
    on = torch.device(choose_device(accelerator or device))
    if folds is not None:
        _cross_fit(config, [s for s in studies if s.subject in wanted.subjects], folds, out, on, changed_data)
        return
    training = [s for s in studies if s.subject in wanted.train]
    selection = [s for s in studies if s.subject in wanted.selection]
    with progress("training") as update:
        path = train(
            config,
            training,
            selection,
            out,
            on,
            on_step=lambda step, loss: update(step, iterations, f"loss {loss:.3f}"),
            changed_data=changed_data,
        )
    for subject, scores in load_segmenter(path).training["selection_dice"].items():
        say(f"{subject}: Dice " + ", ".join(f"{region} {value:.3f}" for region, value in scores.items()))
    say(f"Trained on {len(training)} subjects: {path}")


def _cross_fit(
    config: "SegmenterConfig",
    studies: "Sequence[Study]",
    folds: int,
    out: Path,
    device: "torch.device",
    changed_data: bool,
) -> None:
    from ummgat.segment.train import train_folds

    with progress("training") as update:
        held_back = train_folds(
            config,
            studies,
            folds,
            out,
            device,
            lambda step, loss: update(step, folds * config.iterations, f"loss {loss:.3f}"),
            changed_data,
        )
    for subject, scores in sorted(held_back.items()):
        say(f"{subject}, held back: Dice " + ", ".join(f"{region} {value:.3f}" for region, value in scores.items()))
    say(f"Cross-fitted on {len(studies)} subjects in {folds} folds: {out}")
