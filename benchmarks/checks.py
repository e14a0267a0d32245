"""How often the checks of `ummgat check` are right: confusion, names changed at random, false alarms, and faults made
on purpose.

    python benchmarks/checks.py COHORT [COHORT ...] [--draw d.json --part test] [--faults] [--json out.json]

Every image of every study is asked for its name (confusion table). Then names are changed at random: in half of the
trials two sequences of a study are swapped, in the other half one image comes alone under a wrong name; the right names
beside them count as false alarms if they are doubted. With --faults every study is also moved, cut and painted on, and
the findings are counted.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ummgat.check.checker import Checker, load_checker
from ummgat.check.judge import doubted_names, judge_cohort
from ummgat.check.measure import measure, measure_volumes
from ummgat.check.network import CLASSES
from ummgat.core.draw import load_draw
from ummgat.core.machine import BUNDLED_CHECKS, bundled_file
from ummgat.core.study import Study, load_cohort

Volumes = dict[str, NDArray[np.uint8]]


def main() -> None:
    """Measure, print the tables and the headline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", type=Path, nargs="+")
    parser.add_argument("--checks", type=Path, default=bundled_file(BUNDLED_CHECKS))
    parser.add_argument("--draw", type=Path, help="only subjects of one part of this draw")
    parser.add_argument("--part", default="test", choices=("train", "selection", "test"))
    parser.add_argument("--trials", type=int, default=20, help="changes of names per study")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    checker = load_checker(arguments.checks)
    wanted = set(getattr(load_draw(arguments.draw), arguments.part)) if arguments.draw else None
    out = {}
    for folder in arguments.cohorts:
        studies = [study for study in load_cohort(folder) if wanted is None or study.subject in wanted]
        measured = {study.subject: measure(study, checker) for study in studies}
        found: dict[str, Any] = {"studies": len(studies), "confusion": confusion(measured)}
        found |= renamed(measured, checker, arguments.trials)
        found |= alarms(measured, checker)
        if arguments.faults:
            found["faults"] = faults(studies, measured, checker)
        out[folder.name] = found
        print(json.dumps({folder.name: found}, indent=1, ensure_ascii=False), flush=True)
    headline = {name: {k: f[k] for k in ("studies", "recall", "false_alarms")} for name, f in out.items()}
    print(json.dumps(headline))
    if arguments.json:
        arguments.json.write_text(json.dumps(out, indent=1, ensure_ascii=False), encoding="utf-8")


def confusion(measured: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Stated sequence → likeliest sequence → images."""
    table = {stated: dict.fromkeys(CLASSES, 0) for stated in CLASSES}
    for study in measured.values():
        for name, image in study["images"].items():
            if name in CLASSES:
                table[name][max(image["probabilities"], key=image["probabilities"].__getitem__)] += 1
    return table


def renamed(measured: Mapping[str, Any], checker: Checker, trials: int) -> dict[str, Any]:
    """Recall of changed names, and how many right names beside them were doubted."""
    random = np.random.default_rng(0)
    hits = changed = doubted = right = 0
    missed: Counter[str] = Counter()
    for study in measured.values():
        names = [name for name in study["images"] if name in CLASSES]
        for trial in range(trials):
            if trial % 2 and len(names) > 1:
                a, b = random.choice(names, 2, replace=False)
                called = {name: {a: b, b: a}.get(name, name) for name in names}
            else:
                name = str(random.choice(names))
                called = {name: str(random.choice([c for c in CLASSES if c != name]))}
            images = {new: study["images"][old] for old, new in called.items()}
            told = {
                q
                for finding in doubted_names({"images": images, "pairs": {}}, checker.reference)
                for q in finding.images
            }
            for old, new in called.items():
                if old == new:
                    right += 1
                    doubted += new in told
                else:
                    changed += 1
                    hits += new in told
                    missed[f"{old} called {new}"] += new not in told
    return {
        "recall": round(hits / max(changed, 1), 4),
        "changed": changed,
        "false_alarms": round(doubted / max(right, 1), 4),
        "right": right,
        "missed": {k: n for k, n in missed.most_common() if n},
    }


def alarms(measured: Mapping[str, Any], checker: Checker) -> dict[str, Any]:
    """Findings of the cohort as it is."""
    found = judge_cohort(measured, checker.reference)
    return {
        "findings": dict(Counter(f.check for findings in found.values() for f in findings)),
        "images_doubted": len(
            {(s, q) for s, fs in found.items() for f in fs if f.check == "sequence" for q in f.images}
        ),
        "studies_with_findings": sum(bool(findings) for findings in found.values()),
        "texts": {s: [f.text for f in findings] for s, findings in found.items() if findings},
    }


def faults(studies: list[Study], measured: Mapping[str, Any], checker: Checker) -> dict[str, Any]:
    """Share of studies with a finding of the right kind after each fault, and with any finding that was not there
    before.
    """
    before = {s: {(f.check, *f.images) for f in fs} for s, fs in judge_cohort(measured, checker.reference).items()}
    out = {}
    for name, (check, fault) in FAULTS.items():
        random = np.random.default_rng(0)
        kind = any_new = 0
        for study in studies:
            volumes = {q: np.array(study.volume(q)) for q in study.acquired if q in CLASSES}
            labels = study.labels()
            broken = fault(volumes, None if labels is None else np.array(labels), study.grid.spacing_mm[0], random)
            # Judged by the reference: one fault must not become what is usual.
            now = judge_cohort({study.subject: measure_volumes(broken, study.grid, checker)}, checker.reference)
            new = {(f.check, *f.images) for f in now[study.subject]} - before[study.subject]
            kind += any(found[0] == check for found in new)
            any_new += bool(new)
        out[name] = {
            "expected": check,
            "found": round(kind / len(studies), 3),
            "anything": round(any_new / len(studies), 3),
        }
    return out


def _moved(mm: float, degrees: float) -> Callable[..., Volumes]:
    def fault(volumes: Volumes, _: Any, spacing: float, random: np.random.Generator) -> Volumes:
        name = list(volumes)[int(random.integers(len(volumes)))]
        volume = volumes[name]
        axis, shift = random.normal(size=3), random.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
        middle = np.array(volume.shape) / 2
        offset = middle - turn @ middle + shift / np.linalg.norm(shift) * mm / spacing
        brain = np.logical_or.reduce([v > 0 for v in volumes.values()])
        moved = ndimage.affine_transform(volume, turn, offset, order=1)
        return volumes | {name: np.where(brain, np.maximum(moved, 1), 0).astype(np.uint8)}

    return fault


def _cut_top(volumes: Volumes, _: Any, spacing: float, __: Any) -> Volumes:
    """The highest 30 mm of the brain were not scanned."""
    brain = np.logical_or.reduce([v > 0 for v in volumes.values()])
    last = int(np.flatnonzero(brain.any((1, 2)))[-1] - 30 / spacing)
    return {
        name: np.where(np.arange(len(v))[:, None, None] <= last, v, 0).astype(np.uint8) for name, v in volumes.items()
    }


def _lost_lobe(volumes: Volumes, _: Any, spacing: float, __: Any) -> Volumes:
    """The strip took a ball of 30 mm radius at the left side."""
    brain = np.logical_or.reduce([v > 0 for v in volumes.values()])
    places = np.argwhere(brain)
    middle = places.mean(0)
    middle[2] = places[:, 2].min()
    away = np.sqrt(sum((np.indices(brain.shape)[a] - middle[a]) ** 2 for a in range(3))) * spacing
    return {name: np.where(away > 30, v, 0).astype(np.uint8) for name, v in volumes.items()}


def _scalp(volumes: Volumes, _: Any, spacing: float, __: Any) -> Volumes:
    """A shell of 6 mm as bright as fat was left all around, as far as the field of view goes."""
    brain = np.logical_or.reduce([v > 0 for v in volumes.values()])
    shell = ndimage.binary_dilation(brain, iterations=max(1, round(6 / spacing))) & ~brain
    return {
        name: np.where(shell, 250, np.minimum(v, 255) // 2 + (v > 0)).astype(np.uint8) for name, v in volumes.items()
    }


def _cavity(volumes: Volumes, labels: Any, spacing: float, random: np.random.Generator) -> Volumes:
    """Fluid where the tumour core was."""
    if labels is None:
        return volumes
    core = np.isin(labels, (1, 3)) if np.isin(labels, (1, 3)).sum() * spacing**3 > 2400 else labels > 0
    core = ndimage.binary_dilation(core, iterations=max(1, round(4 / spacing)))
    value = {"t1": 35, "t1ce": 30, "t2": 235, "flair": 25}
    return {
        name: np.where(core & (v > 0), np.clip(random.normal(value[name], 8, v.shape), 1, 255), v).astype(np.uint8)
        for name, v in volumes.items()
    }


def _metastases(volumes: Volumes, _: Any, spacing: float, random: np.random.Generator) -> Volumes:
    """Ten enhancing balls of 4 to 9 mm radius with oedema."""
    brain = ndimage.binary_erosion(
        np.logical_or.reduce([v > 0 for v in volumes.values()]), iterations=round(8 / spacing)
    )
    places = np.argwhere(brain)
    ball, rim, oedema = (np.zeros(brain.shape, bool) for _ in range(3))
    for place in places[random.integers(len(places), size=10)]:
        away = np.sqrt(sum((np.indices(brain.shape)[a] - place[a]) ** 2 for a in range(3))) * spacing
        radius = random.uniform(4, 9)
        ball |= away < radius
        rim |= (away < radius) & (away > radius - 3)
        oedema |= away < radius + 6
    factor = {"t1": 0.8, "t1ce": 0.9, "t2": 1.5, "flair": 1.5}
    out = {}
    for name, v in volumes.items():
        painted = np.where(oedema, v * factor[name], v.astype(float))
        painted = np.where(rim, 235, np.where(ball, painted * 0.7, painted)) if name == "t1ce" else painted
        out[name] = np.where(v > 0, np.clip(painted, 1, 255), 0).astype(np.uint8)
    return out


def _smaller(factor: float, turned: bool) -> Callable[..., Volumes]:
    """A child's head; an infant's has grey and white matter the other way round."""

    def fault(volumes: Volumes, *_: Any) -> Volumes:
        out = {}
        for name, v in volumes.items():
            value = v.astype(float)
            if turned and name in ("t1", "t2"):
                middle = np.median(value[v > 0])
                value = np.where(np.abs(value - middle) < 60, 2 * middle - value, value)
            value = np.where(v > 0, np.clip(value, 1, 255), 0)
            offset = np.array(v.shape) / 2 * (1 - 1 / factor)
            out[name] = ndimage.affine_transform(value, np.eye(3) / factor, offset, order=0).astype(np.uint8)
        return out

    return fault


FAULTS: dict[str, tuple[str, Callable[..., Volumes]]] = {
    "one sequence moved by 5 mm": ("registration", _moved(5, 0)),
    "by 10 mm": ("registration", _moved(10, 0)),
    "turned by 5 degrees": ("registration", _moved(0, 5)),
    "by 10 degrees": ("registration", _moved(0, 10)),
    "top 30 mm missing": ("field of view", _cut_top),
    "part of the brain stripped away": ("strip", _lost_lobe),
    "scalp left": ("strip", _scalp),
    "cavity for the tumour core": ("unlike", _cavity),
    "ten metastases": ("unlike", _metastases),
    "head of 0.8 (volume 0.51)": ("unlike", _smaller(0.8, False)),
    "infant: head of 0.75, grey and white turned": ("unlike", _smaller(0.75, True)),
}
"""Name → (check that should find it, what is done)."""


if __name__ == "__main__":
    main()
