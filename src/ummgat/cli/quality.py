"""The command `ummgat quality`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Device, Jobs, TestDraw
from ummgat.cli.terminal import comma_list, command, progress, report_failures, say


@command(panel="Measure", example="ummgat quality cohort evaluation --draw draw.json --parts directions,lesions")
def quality(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with labels and all sequences.")],
    out: Annotated[Path, typer.Argument(help="Folder, best that of `ummgat evaluate`: `ummgat report` shows both.")],
    draw: TestDraw = None,
    model: Annotated[Path | None, typer.Option(help="Generative model. Default: the bundled one.")] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Another model to stand beside it: no-lam=FILE. May be repeated."),
    ] = None,
    segmenter: Annotated[Path | None, typer.Option(help="Own segmenter. Default: the bundled one.")] = None,
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to measure; choose nothing by test.")
    ] = "test",
    parts: Annotated[
        str, typer.Option(help="What to measure.")
    ] = "directions,distances,enhancement,lesions,codes,pictures",
    across: Annotated[
        bool, typer.Option("--across", help="Distances of translations to other centers too: takes longer.")
    ] = False,
    inception: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth, for FID; without it there is none.")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = 1,
) -> None:
    """Measure the images: errors in lesion and brain, distances between domains, enhancement, codes; and make
    pictures.
    """
    import torch

    from ummgat.core.draw import NO_DRAW, given_or_all_test
    from ummgat.core.machine import BUNDLED_MODEL, BUNDLED_SEGMENTER, choose_device, given_or_bundled
    from ummgat.core.study import load_cohort
    from ummgat.model.weights import load_model
    from ummgat.quality.features import inception_fid, random_convolutions, segmenter_bottleneck
    from ummgat.quality.measure import measure_images
    from ummgat.segment.unet import load_segmenter

    on = torch.device(choose_device(device))
    main = load_model(given_or_bundled(model, BUNDLED_MODEL), on)
    models = {"model": main} | {name: load_model(path, on) for name, path in _beside(beside or []).items()}
    own = load_segmenter(given_or_bundled(segmenter, BUNDLED_SEGMENTER), on)
    everybody = load_cohort(cohort)
    chosen = given_or_all_test(draw, everybody).studies(everybody, part, cohort)
    if draw is None:
        say(NO_DRAW.format(n=len(chosen)))
    extractors = [segmenter_bottleneck(own), random_convolutions()]
    if inception is not None:
        extractors.insert(0, inception_fid(inception))
    settings = {
        "models": {name: m.hash for name, m in models.items()},
        "segmenter": own.hash,
        "part": part,
        "subjects": [s.subject for s in chosen],
        "features": [e.name for e in extractors],
        "across": across,
    }
    with progress("measuring") as update:
        measured = measure_images(
            models,
            own,
            chosen,
            out,
            settings,
            extractors,
            comma_list(parts) or (),
            not across,
            jobs,
            lambda what, done, n: update(done, n, what),
        )
    for reason in measured.left_out:
        say(f"Left out: {reason}")
    say(f"Measured the images of {len(chosen)} {part} subjects: {out}")
    report_failures(measured.failed)


def _beside(given: list[str]) -> dict[str, Path]:
    """Read no-lam=FILE."""
    told: dict[str, Path] = {}
    for part in given:
        name, equals, path = part.partition("=")
        if not equals or not name or name == "model" or name in told:
            raise ValueError(
                f"Model is not clear: --beside. Found {part!r}; expected a name of its own and a file, as no-lam=FILE. "
                "Correct it."
            )
        told[name] = Path(path)
    return told
