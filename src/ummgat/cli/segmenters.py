"""Options that say which segmenters `ummgat evaluate` uses, and what it may know of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ummgat.cli.terminal import comma_list, say

if TYPE_CHECKING:
    import torch

    from ummgat.core.study import Study
    from ummgat.segment.load import AnySegmenter

Trust = Annotated[
    bool, typer.Option("--trust", help="Run the foreign --segmenter: its files can hold code, which runs as you.")
]
ChannelOrder = Annotated[
    str | None,
    typer.Option(help="What a foreign segmenter's channels are, in its order. Default: as it says itself."),
]
Orientation = Annotated[
    str | None,
    typer.Option(help="Where x, y, z of a foreign segmenter's images grow to, as LPS. Default: as it says, or RAS."),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that a foreign segmenter may take for one answer.")]
Interpreter = Annotated[
    Path | None, typer.Option(help="Python that has the foreign segmenter's packages, as nnunetv2. Default: this one.")
]


def open_segmenter(
    path: Path,
    studies: "Sequence[Study]",
    trust: bool,
    sequences: str | None,
    orientation: str | None,
    timeout_s: float,
    python: Path | None,
    device: "torch.device",
) -> "AnySegmenter":
    """Load the segmenter at `path` for studies on one voxel size, and print what its channels are taken for."""
    from ummgat.core.study import require_spacing
    from ummgat.segment.foreign import ForeignSegmenter
    from ummgat.segment.load import load_any

    spacing = studies[0].grid.spacing_mm[0]
    for study in studies:
        require_spacing(study, spacing)
    found = load_any(path, spacing, trust, timeout_s, comma_list(sequences), orientation, python, device)
    if isinstance(found, ForeignSegmenter):
        say(f"Foreign segmenter, given {', '.join(found.sequences)} at {spacing:g} mm: {path}")
        say("Its training subjects are unknown: whether it has seen those it is tested on cannot be checked.")
    return found
