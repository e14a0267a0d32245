"""The command `ummgat train`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ummgat.cli.bars import print_estimate, training_progress
from ummgat.cli.options import Accelerator, ChangedData, Device
from ummgat.cli.terminal import command, console, fail, say


@command(panel="Train", example="ummgat train small --data cohort --draw draw.json --out run")
def train(
    config: Annotated[str, typer.Argument(help="Preset (paper, fine, small, tiny) or TOML file.")],
    data: Annotated[Path, typer.Option(help="Prepared cohort.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`.")],
    out: Annotated[Path, typer.Option(help="Run folder. The same command again resumes the run in it.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="One setting: train.batch=4. May be repeated.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Model whose weights a new run starts with: same networks, same domains.")
    ] = None,
    changed_data: ChangedData = False,
    device: Device = "auto",
    accelerator: Accelerator = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what the run would cost; train nothing.")
    ] = False,
) -> None:
    """Train one model that turns any (center, sequence) of the draw into any other."""
    console.quiet = (
        console.quiet or os.environ.get("LOCAL_RANK", "0") != "0"
    )  # further processes of one run say nothing but errors
    from ummgat.core.config import load_config
    from ummgat.core.draw import load_draw
    from ummgat.core.machine import choose_device
    from ummgat.core.study import load_cohort
    from ummgat.train import loop as training
    from ummgat.train.overrides import as_toml, with_overrides

    settings = with_overrides(load_config(config), overrides or [])
    studies, drawn = load_cohort(data), load_draw(draw)
    device = accelerator or device
    if device != "auto":
        choose_device(device)
    if dry_run:
        console.print(as_toml(settings), soft_wrap=True)
        print_estimate(training.plan(settings, studies, drawn), settings.train.iterations)
        return
    try:
        with training_progress(settings.train.iterations, settings.train.log_every) as on_step:
            best = training.train(
                settings,
                studies,
                drawn,
                out,
                accelerator=device,
                start_from=start_from,
                changed_data=changed_data,
                on_estimate=lambda e: print_estimate(e, settings.train.iterations),
                on_step=on_step,
            )
    except KeyboardInterrupt:
        kept = out / "checkpoint.safetensors"
        fail(
            f"Stopped by the user. The same command goes on from {kept}."
            if kept.is_file()
            else "Stopped by the user before the first checkpoint. The same command starts anew.",
            130,
        )
    say(f"Trained. Best model by validation: {best}. The run, with its logs: {out}.")
