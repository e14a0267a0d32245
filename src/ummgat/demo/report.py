"""The end of the demo: a segmenter that knows the phantom's truth, every scenario, and the report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ummgat.core.study import Study
from ummgat.evaluate.cohort_table import cohort_rows
from ummgat.evaluate.segmentation import correlations, evaluate
from ummgat.model.weights import TrainedModel
from ummgat.quality.directions import write_rows
from ummgat.quality.features import random_convolutions, segmenter_bottleneck
from ummgat.quality.measure import measure_images
from ummgat.report.page import build_report
from ummgat.segment.train import train_segmenter
from ummgat.segment.unet import SegmenterConfig, load_segmenter

SEQUENCES = ("t1", "t1ce", "t2", "flair")

ITERATIONS = 350
"""Enough for Dice of 0.8 and more on phantoms, whose tumours are easy."""

SCENARIOS = ("none", "single", "triple")
"""One sequence is missing, or all but one: half the time of every combination, and the two ends of what there is."""

PARTS = ("distances", "enhancement", "pictures")
"""Directions have been measured; not the codes: their map takes a minute, most of it to compile."""


def demo_report(
    out: Path,
    model: TrainedModel,
    parts: dict[str, Sequence[Study]],
    seed: int,
    progress: Callable[[str, int, int], None],
) -> Path:
    """Train a segmenter on complete training phantoms, evaluate the test phantoms of its center, write the report.

    Parameters
    ----------
    out : Path
        Folder of the demo: gets segmenter/, evaluation/ and report/.
    model : TrainedModel
        Of the demo; it never saw a pair, the segmenter does see complete phantoms.
    parts : mapping of "training" and "test" → studies
        Phantoms with all true images and labels.
    seed : int
    progress : callable
        (what, done, in all).

    Returns
    -------
    Path
        The HTML page.
    """
    complete = {name: [s for s in own if s.center == "A"] for name, own in parts.items()}
    config = SegmenterConfig(
        sequences=SEQUENCES,
        spacing_mm=model.config.data.spacing_mm,
        crop=(1, 48, 48),
        iterations=ITERATIONS,
        seed=seed,
    )
    path = train_segmenter(
        config,
        complete["training"],
        [],
        out / "segmenter",
        on_step=lambda step, loss: progress("training a segmenter", step, ITERATIONS),
    )
    segmenter, folder, tests = load_segmenter(path), out / "evaluation", complete["test"]
    settings = {
        "model": model.hash,
        "segmenters": {"plain": segmenter.hash},
        "part": "test",
        "subjects": [s.subject for s in tests],
    }
    report = evaluate(
        {"plain": segmenter},
        model,
        tests,
        folder,
        correlations(complete["training"], SEQUENCES),
        settings,
        seed,
        SCENARIOS,
        progress=lambda done, n, _: progress("every scenario", done, n),
    )
    if report.failed:
        raise ValueError(
            f"Phantoms could not be evaluated: {folder}. Found {report.failed}; expected none. This is a bug."
        )
    write_rows(folder / "cohort.csv", cohort_rows(parts))
    extractors = [segmenter_bottleneck(segmenter), random_convolutions()]
    measure_images({"model": model}, segmenter, tests, folder, settings, extractors, PARTS, progress=progress)
    return build_report(folder, out / "report", dataset=None)
