"""The command `ummgat demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ummgat.cli.options import Overwrite
from ummgat.cli.terminal import command


@command(panel="Use", example="ummgat demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, tables, the model and all that led to them.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed, other patients.")] = 0,
    iterations: Annotated[int | None, typer.Option(help="Training steps; default: what preset tiny says.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train on synthetic patients of two centers, complete test patients, and compare with the truth. Minutes."""
    from ummgat.demo.run import run_demo

    code = run_demo(out, seed=seed, iterations=iterations, overwrite=overwrite, console=Console(highlight=False))
    raise typer.Exit(code)
