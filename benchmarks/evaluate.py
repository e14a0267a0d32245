"""Subjects per minute through every scenario, and where the time goes: generating, segmenting, scoring, writing.

Usage: python benchmarks/evaluate.py [--subjects 1] [--spacing 2] [--scenarios none,fixed,random] [--threads 0] [--json
FILE]

Runs the product's own `evaluate` on phantoms of the demo's kind with the bundled weights of model and segmenter (which
come from 2 mm images of patients: the work is the same, the Dice means nothing here). The yardstick in the same run is
one segmentation of one subject alone: how many times that a subject costs is what stays comparable between machines.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from options import parsed
from ummgat.completion import fill as generate
from ummgat.core.machine import BUNDLED_MODEL, BUNDLED_SEGMENTER, bundled_file
from ummgat.core.study import load_cohort
from ummgat.evaluate import results
from ummgat.evaluate.segmentation import evaluate
from ummgat.model.weights import load_model
from ummgat.phantom import PhantomConfig, write_phantom
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.segment.unet import UnetSegmenter, load_segmenter


class Clock:
    """Adds up the time spent in wrapped functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
                self.calls[name] = self.calls.get(name, 0) + 1

        return timed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--spacing", type=float, default=2.0, help="the bundled weights' own is 2")
    parser.add_argument("--scenarios", default="none,fixed,random")
    parser.add_argument("--threads", type=int, default=0, help="0 = as PyTorch chooses")
    parser.add_argument("--json", type=Path)
    args = parsed(parser)
    files = [bundled_file(name) for name in (BUNDLED_MODEL, BUNDLED_SEGMENTER)]
    if None in files:
        raise SystemExit("The bundled weights are missing. Found none in the package; expected both. Install it again.")
    model, segmenter = load_model(files[0]), load_segmenter(files[1])  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        studies = _phantoms(Path(folder), args.subjects, args.spacing)
        images = {q: np.asarray(studies[0].volume(q)) for q in segmenter.sequences}
        segmenter(images)  # warm up
        began = time.perf_counter()
        segmenter(images)
        alone = time.perf_counter() - began
        clock = Clock()
        module = "ummgat.evaluate.segmentation"
        with (
            mock.patch(f"{module}.fill", clock.around("generating", generate.fill)),
            mock.patch(f"{module}.scores", clock.around("scoring", results.scores)),
            mock.patch.object(results.ResultsFile, "add", clock.around("writing", results.ResultsFile.add)),
            mock.patch.object(UnetSegmenter, "__call__", clock.around("segmenting", UnetSegmenter.__call__)),
        ):
            began = time.perf_counter()
            out, scenarios = Path(folder) / "ev", args.scenarios.split(",")
            report = evaluate({"plain": segmenter}, model, studies, out, {}, {}, scenarios=scenarios)
            whole = time.perf_counter() - began
    if report.failed:
        raise SystemExit(f"Evaluation failed: {report.failed}")
    shares = {name: seconds / whole for name, seconds in clock.seconds.items()}
    found: dict[str, Any] = {
        "subjects_per_minute": 60 * len(studies) / whole,
        "subject_over_one_segmentation": whole / len(studies) / alone,
        "segmentations_per_subject": clock.calls["segmenting"] / len(studies),
        "translations_per_subject": clock.calls["generating"] / len(studies),
        "shares": shares | {"rest": 1 - sum(shares.values())},
        "threads": torch.get_num_threads(),
        "spacing_mm": args.spacing,
        "scenarios": args.scenarios,
    }
    for name, value in found.items():
        print(f"{name:32} {value if isinstance(value, str | int) else _printed(value)}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _printed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:.1%}" for name, share in value.items())
    return f"{value:.2f}"


def _phantoms(folder: Path, n: int, spacing: float) -> list[Any]:
    """Complete test phantoms of one center that the bundled model knows by name."""
    config = PhantomConfig(
        n_subjects={"A": 1}, n_test={"A": n}, sequences={"A": ("t1", "t1ce", "t2", "flair")}, spacing_mm=spacing
    )
    write_phantom(folder / "phantom", config)
    settings = PrepareSettings(spacing_mm=2.0, centers=folder / "phantom" / "split.json")
    prepare_cohort(folder / "phantom" / "truth", folder / "cohort", settings)
    tests = json.loads((folder / "phantom" / "split.json").read_text(encoding="utf-8"))["test"]
    return [s for s in load_cohort(folder / "cohort") if s.subject in tests]


if __name__ == "__main__":
    main()
