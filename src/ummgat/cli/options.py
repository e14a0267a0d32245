"""Options that several commands share, each under one name and with one meaning."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command wrote there before.")]

Layout = Annotated[str, typer.Option(help="How files are named: auto, brats2018, brats2023, ucsf-pdgm, folder.")]

Jobs = Annotated[
    int, typer.Option(help="Studies at once, in processes of their own; the result does not depend on it.")
]

Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to compute on; auto: a GPU if there is one.")
]

Accelerator = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None, typer.Option(hidden=True, help="What --device was once called.")
]

Sheet = Annotated[
    Path | None,
    typer.Option(help="CSV of `ummgat inspect`, as corrected: DICOM, BIDS, MHA, NRRD or NIfTI. Implies --raw."),
]

Accept = Annotated[
    Literal["sure", "likely"],
    typer.Option(help="How sure it must be which sequence a series is; below that a person is asked."),
]

TestDraw = Annotated[
    Path | None,
    typer.Option("--draw", help="File written by `ummgat draw`: it says who is a test subject. Default: everybody is."),
]

Template = Annotated[
    Path | None, typer.Option(help="With --raw: image to register to; default MNI152 in BraTS's field of view.")
]

BrainMask = Annotated[str | None, typer.Option(help="With --raw: name of a brain mask in every study's folder.")]

N4 = Annotated[bool, typer.Option("--n4", help="With --raw: take the shading of coils out.")]

Checks = Annotated[
    Path | None, typer.Option(help="Learnt checks from `ummgat train-checks`. Default: the bundled ones.")
]

ChangedData = Annotated[
    bool, typer.Option("--changed-data", help="Go on with a run although its studies are not those that it began with.")
]
