"""The command `ummgat phantom`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Overwrite
from ummgat.cli.terminal import (
    command,
    console,
    print_table,
    say,
    split,
)


@command(panel="Data", example="ummgat phantom hospital --spacing 3")
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder: studies/, truth/, split.json, centers.csv.")],
    preset: Annotated[
        Literal["demo", "tiny", "ten-domain", "meningioma"], typer.Option(help="Where the other options start from.")
    ] = "demo",
    centers: Annotated[list[str] | None, typer.Option(help="Training subjects: A=12,B=6.")] = None,
    selection: Annotated[list[str] | None, typer.Option(help="Selection subjects: A=1,B=1.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test subjects: A=3,B=1.")] = None,
    healthy: Annotated[list[str] | None, typer.Option(help="Test subjects without a tumour: A=1.")] = None,
    sequences: Annotated[
        list[str] | None, typer.Option(help="What one center scans: A=t1,t2. Once per center.")
    ] = None,
    spacing: Annotated[float | None, typer.Option(help="Voxel size in mm.")] = None,
    layout: Annotated[
        Literal["brats2018", "brats2023", "ucsf-pdgm"] | None,
        typer.Option(help="Names of files and numbers of labels."),
    ] = None,
    draw: Annotated[
        Literal["strict", "all", "complete"] | None,
        typer.Option(help="A training subject has one sequence, a random part, or everything."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other subjects.")] = None,
    align_truth: Annotated[
        bool, typer.Option("--align-truth", help="Also write every subject as the other centers would have scanned it.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="As scanned: heads, a grid per sequence, thick slices; with the true transforms."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write synthetic multi-center studies with tumours and known truth, to try everything without patient data."""
    from ummgat.phantom import PRESETS, PhantomConfig, write_phantom
    from ummgat.phantom.write import plan_cohort

    base = PRESETS[preset].model_dump()
    names = _counts(centers, "--centers") if centers else base["n_subjects"]
    told = {"n_subjects": centers, "n_selection": selection, "n_test": test, "n_healthy": healthy}
    for field, given in told.items():
        base[field] = _counts(given, f"--{field}") if given else {c: n for c, n in base[field].items() if c in names}
    usual = ("t1", "t1ce", "t2", "flair")
    base["sequences"] = {c: base["sequences"].get(c, usual) for c in names} | _sequences(sequences or [])
    base["layouts"] = {c: name for c, name in base["layouts"].items() if c in names and layout is None}
    changes = {
        "spacing_mm": spacing,
        "layout": layout,
        "draw": draw,
        "seed": seed,
        "align_truth": align_truth or None,
        "raw": raw or None,
    }
    config = PhantomConfig.model_validate(base | {k: v for k, v in changes.items() if v is not None})
    with console.status("Drawing synthetic patients"):
        write_phantom(out, config, overwrite)
    members = plan_cohort(config)
    print_table(
        [
            {"center": c, "sequences": " ".join(config.sequences[c])}
            | {
                part: str(sum(m.center == c and m.part == part for m in members))
                for part in ("train", "selection", "test")
            }
            for c in config.n_subjects
        ]
    )
    say(f"Synthetic cohort of {len(members)} subjects: {out}. The true images of every subject are in {out / 'truth'}.")


def _counts(given: Sequence[str], option: str) -> dict[str, int]:
    """Read A=12,B=6."""
    counts = {}
    for part in split(given):
        name, _, number = part.partition("=")
        if not number.isdecimal():
            raise ValueError(
                f"Count is not clear: {option}. Found {part!r}; expected for example A=12,B=6. Correct it."
            )
        counts[name] = int(number)
    return counts


def _sequences(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read A=t1,t2, one option per center."""
    told = {}
    for part in given:
        center, equals, names = part.partition("=")
        if not equals:
            raise ValueError(
                f"Sequences are not clear: --sequences. Found {part!r}; expected for example A=t1,t2. Correct it."
            )
        told[center] = tuple(split([names]))
    return told
