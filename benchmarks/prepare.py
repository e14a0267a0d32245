"""Seconds and peak memory of preparing one raw study, step by step.

    python benchmarks/prepare.py --spacing 1 --sequences t1ce,t2
    python benchmarks/prepare.py --study FOLDER_WITH_t1.nii.gz_…

Without --study a head of the phantom is scanned; its true brain stands in for the skull strip unless --deepbet is
given. Memory is the process's highest so far, so a step that adds nothing to it shows the number of the one before.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ummgat.check.checker import load_checker
from ummgat.check.measure import measure_volumes
from ummgat.core.machine import BUNDLED_CHECKS, bundled_file
from ummgat.core.volume import read_volume, resample
from ummgat.phantom import brats_frame, make_scanner
from ummgat.phantom.raw import make_head, scan_raw
from ummgat.phantom.subject import make_body
from ummgat.prepare.images import prepare_images, reorient
from ummgat.prepare.n4 import correct_bias
from ummgat.prepare.pipeline import to_grid
from ummgat.prepare.register import choose_reference, head_mask, register_rigid, register_subject
from ummgat.prepare.rigid import moved
from ummgat.prepare.skullstrip import deepbet_mask
from ummgat.prepare.template import load_template

T = TypeVar("T")
rows: list[dict[str, object]] = []


def timed(step: str, work: Callable[[], T]) -> T:
    """Do `work`, note how long it took and how much memory the process has needed so far."""
    started = time.perf_counter()
    out = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append({"step": step, "seconds": round(time.perf_counter() - started, 1), "peak_gib": round(peak, 2)})
    print(json.dumps(rows[-1]), flush=True)
    return out


def main() -> None:
    """Measure, print one line per step and the headline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="folder with t1.nii.gz and others, as scanned")
    parser.add_argument("--spacing", type=float, default=1.0, help="mm of the phantom's anatomy")
    parser.add_argument("--sequences", default="t1ce,t1,t2,flair")
    parser.add_argument("--deepbet", action="store_true")
    parser.add_argument("--n4", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = arguments.sequences.split(",")
    if arguments.study is not None:
        images = timed(
            "read, reorient", lambda: {n: reorient(*read_volume(arguments.study / f"{n}.nii.gz")) for n in names}
        )
        brain = None
    else:
        head = make_head(make_body(1, brats_frame(arguments.spacing)), 1)
        scans = {name: scan_raw(head, make_scanner("A", 0), name, 1) for name in names}
        images = timed("reorient", lambda: {name: reorient(scan.data, scan.grid) for name, scan in scans.items()})
        truth = np.ascontiguousarray(head.brain.T).astype(np.float32)
        first = choose_reference(images)
        brain = resample(truth, moved(head.grid, scans[first].moved), images[first][1]) >= 0.5
    reference = choose_reference(images)
    if brain is None or arguments.deepbet:
        brain = timed("find brain (deepbet)", lambda: deepbet_mask(*images[reference], reference))
    if arguments.n4:
        images = timed("N4", lambda: {n: (correct_bias(*i, head_mask(*i)), i[1]) for n, i in images.items()})
    found = timed(f"register {len(names) - 1} to {reference}", lambda: register_subject(images, reference))
    template, grid, common = load_template(None)
    whole, own = images[reference]
    stripped = np.where(brain, whole, 0)
    mask = np.asarray(template > 0)
    there = timed(
        "register to template", lambda: register_rigid((template, grid), (stripped, own), mask, brain, same_brain=False)
    )
    inside = resample(brain.astype(np.float32), moved(own, there.matrix), common) >= 0.5
    ready = timed(
        "resample, strip",
        lambda: {n: to_grid(image, there.matrix @ found[n].matrix, common, inside) for n, image in images.items()},
    )
    record, volumes, _ = timed("scale to uint8", lambda: prepare_images(ready, subject="study", center="A"))
    path = bundled_file(BUNDLED_CHECKS)
    assert path is not None
    checker = load_checker(path)
    timed("checks", lambda: measure_volumes(volumes, record.grid.grid(), checker))
    headline = {
        "sequences": len(names),
        "seconds_per_study": round(sum(float(str(row["seconds"])) for row in rows), 1),
        "peak_gib": rows[-1]["peak_gib"],
    }
    print(json.dumps(headline))
    if arguments.json:
        arguments.json.write_text(json.dumps({"headline": headline, "steps": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
