"""Options of studies as scanned, which `prepare` and `complete` share."""

from pathlib import Path
from typing import Annotated

import typer

Sheet = Annotated[
    Path | None,
    typer.Option(help="CSV of `ummgat inspect`, as corrected: DICOM, BIDS, MHA, NRRD or NIfTI. Implies --raw."),
]
Template = Annotated[
    Path | None, typer.Option(help="With --raw: image to register to; default MNI152 in BraTS's field of view.")
]
BrainMask = Annotated[str | None, typer.Option(help="With --raw: name of a brain mask in every study's folder.")]
N4 = Annotated[bool, typer.Option("--n4", help="With --raw: take the shading of coils out.")]
