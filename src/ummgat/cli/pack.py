"""The command `ummgat pack`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Overwrite
from ummgat.cli.terminal import command, say


@command(panel="Train", example="ummgat pack run small.safetensors")
def pack(
    run: Annotated[Path, typer.Argument(help="Run folder of `ummgat train`.")],
    out: Annotated[Path, typer.Argument(help="New file, e.g. small.safetensors.")],
    which: Annotated[Literal["best", "last"], typer.Option(help="Best by validation, or the end of the run.")] = "best",
    overwrite: Overwrite = False,
) -> None:
    """Write a run's model as 16-bit floats with its discriminator: small to keep, to use, and to start another run
    from.
    """
    from ummgat.core.files import require_new
    from ummgat.train.pack import pack as packed

    require_new(out, overwrite)
    say(f"Packed: {packed(run, out, {'best': 'model.safetensors', 'last': 'last.safetensors'}[which])}")
