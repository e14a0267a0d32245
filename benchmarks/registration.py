"""How well `register_rigid` undoes known movements of the raw phantom: target registration error within the brain.

    python benchmarks/registration.py --pairs 20 --spacing 1

Every pair is another two sequences, thick slices in other planes included, and another movement of up to 15 degrees and
20 mm of the one against the other. The error is how far the found transform puts brain voxels from where they belong.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from ummgat.phantom import brats_frame, make_scanner
from ummgat.phantom.raw import Pose, make_head, scan_raw
from ummgat.phantom.subject import make_body
from ummgat.prepare.register import register_rigid
from ummgat.prepare.rigid import displacement_mm, voxels_to_world

PAIRS = (("t1ce", "t1"), ("t1ce", "t2"), ("t1ce", "flair"), ("t1", "flair"), ("t1", "t2"), ("t2", "flair"))
"""Fixed and moving sequence; with t1ce of 1 mm, and the last three between thick slices of two planes."""


def main() -> None:
    """Measure, print one line per pair and the headline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first pair")
    parser.add_argument("--spacing", type=float, default=1.0, help="mm of the anatomy")
    parser.add_argument("--rotation", type=float, default=15.0, help="largest, degrees; more shows what is flagged")
    parser.add_argument("--shift", type=float, default=20.0, help="largest, mm")
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    errors: list[np.ndarray] = []
    head = None
    for number in range(arguments.first, arguments.first + arguments.pairs):
        subject = 100 + number * arguments.subjects // max(arguments.pairs, 1)
        if head is None or rows[-1]["subject"] != subject:
            head = make_head(make_body(subject, brats_frame(arguments.spacing)), subject)
            inside = voxels_to_world(head.grid, np.argwhere(head.brain)[::997, ::-1])
        names = PAIRS[number % len(PAIRS)]
        scanner = make_scanner("AB"[number % 2], number % 2)
        fixed = scan_raw(head, scanner, names[0], number, pose=Pose(0.0, 0.0, 10.0))
        moving = scan_raw(head, scanner, names[1], number, pose=Pose(arguments.rotation, arguments.shift, 10.0))
        started = time.perf_counter()
        found = register_rigid((fixed.data, fixed.grid), (moving.data, moving.grid))
        seconds = time.perf_counter() - started
        truth = fixed.moved @ np.linalg.inv(moving.moved)
        there = inside @ moving.moved[:3, :3].T + moving.moved[:3, 3]
        error = displacement_mm(found.matrix, truth, there)
        errors.append(error)
        rows.append(
            {
                "pair": number,
                "subject": subject,
                "fixed": names[0],
                "moving": names[1],
                "start_mm": round(float(np.median(displacement_mm(np.eye(4), truth, there))), 2),
                "median_mm": round(float(np.median(error)), 3),
                "p95_mm": round(float(np.percentile(error, 95)), 3),
                "sharpness": round(found.sharpness, 2),
                "problem": found.problem,
                "seconds": round(seconds, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    together = np.concatenate(errors)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    headline = {
        "pairs": len(rows),
        "median_mm": round(float(np.median(together)), 3),
        "p95_mm": round(float(np.percentile(together, 95)), 3),
        "worst_mm": round(float(together.max()), 3),
        "flagged": sum(row["problem"] is not None for row in rows),
        "failed_unflagged": sum(float(e.max()) > 2 and r["problem"] is None for e, r in zip(errors, rows, strict=True)),
        "seconds_per_pair": round(float(np.median([float(str(row["seconds"])) for row in rows])), 1),
        "peak_gib": round(peak, 2),
    }
    print(json.dumps(headline))
    if arguments.json:
        arguments.json.write_text(json.dumps({"headline": headline, "pairs": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
