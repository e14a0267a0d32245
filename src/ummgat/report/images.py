"""Sections on the images themselves: who was measured, errors, distances, enhancement, codes, pictures."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ummgat.core.files import read_json
from ummgat.quality.directions import medians, quality_table
from ummgat.report.quality_figures import distance_heatmaps, enhancement_bars, paired_distances
from ummgat.report.section import Section, Table, number

CODES = (
    "What the encoder tells apart: k-nearest neighbours (k = 5; no slice of the judged slice's own subject votes) and "
    "silhouette width. The untrained encoder is the control. Codes come from a head per domain, which separates "
    "domains even untrained: only the shared features say what was learnt. Lesions of one mask and other texture: the "
    "mask's shape cannot tell."
)

ENHANCEMENT = (
    "False and absent enhancement when the t1ce is replaced. By the segmenter: what it calls enhancing tumour, piece "
    "by piece from 0.1 mL on; an answer that floods the tumour misses nothing, so read the rates beside the volumes. "
    "By intensity: whether voxels of the true enhancing tumour are brighter than 95 % of the image's own normal brain; "
    "no segmenter is involved. Intervals: Wilson, 95 %."
)

LESIONS = (
    "Lesions of at least 1 mL that vanish: less than a tenth of one is called tumour by the segmenter, though it finds "
    "the lesion in the true images. Others true: only the target is generated. Source alone: everything but the source "
    "is. Intervals: Wilson, 95 %."
)

ERRORS = (
    "Against the true image, on the model's grid, generated / histogram-matched copy / copy: MAE in grey levels of "
    "255, SSIM (Gaussian window, range 255), correlation, PSNR in dB; inside the lesion and in the rest of the brain. "
    "Medians over subjects."
)


def image_sections(results: Path) -> list[Section]:
    """Sections of whatever an evaluation folder holds of images; parts that were not measured have none. The first is
    who.
    """
    pictures = sorted((results / "pictures").glob("*.png"))
    found = [
        Section(
            "Who",
            ["Age and sex are not part of prepared studies; a CSV can tell them."],
            {"cohort": _read(results, "cohort")},
        )
    ]
    rows = _read(results, "directions")
    if rows:
        typed = [{k: _value(v) for k, v in row.items() if v != ""} for row in rows]
        found.append(Section("Errors of translation", [ERRORS], {"image_errors": quality_table(medians(typed))}))
    found += _distances(results)
    rates = _read(results, "enhancement_rates")
    if rates:
        typed = [{k: _value(v) for k, v in row.items()} for row in rates]
        figures = {"enhancement": enhancement_bars(typed)}
        tables = {"enhancement_rates": _rates(rates), "enhancement_volumes": _volumes(_read(results, "enhancement"))}
        captions = {"enhancement_rates": "Rates", "enhancement_volumes": "Volumes: median over subjects, mL"}
        found.append(Section("Enhancement", [ENHANCEMENT], tables, figures, captions))
    kept = _read(results, "lesions_rates")
    if kept:
        found.append(Section("Lesions kept", [LESIONS], {"lesions_rates": _kept(kept)}))
    separated = _read(results, "separation")
    codes = {p.stem: p for p in pictures if p.stem.startswith("codes_")}
    if separated or codes:
        captions = {
            "codes_features": "Shared features of the trunk, before any head: trained (above) and untrained (below)",
            "codes_heads": "Codes of the heads: confounded, every domain has a head of its own",
        }
        found.append(Section("Sequence codes", [CODES], {"separation": _separation(separated)}, codes, captions))
    rest = {p.stem: p for p in pictures if not p.stem.startswith("codes_")}
    if rest:
        note = "Generated images are not scans. Segmentations: necrotic core red, oedema green, enhancing tumour blue."
        found.append(Section("Pictures", [note], figures=rest))
    return found[:1] + [section for section in found[1:] if not section.empty]


def _interval(row: Mapping[str, object]) -> str:
    return f"{number(row['low'], 2)} to {number(row['high'], 2)}"


def _kept(rates: Sequence[dict[str, str]]) -> Table:
    """Rates as a reader wants them."""
    return [
        {
            "model": row["model"],
            "target": row["target"],
            "source": row["source"],
            "setting": row["setting"],
            "vanished": f"{row['k']} of {row['n']}",
            "95 %": _interval(row),
            "median share found": number(row["median_share"], 2),
        }
        for row in rates
    ]


def _distances(results: Path) -> list[Section]:
    rows = [{k: _value(v) for k, v in row.items()} for row in _read(results, "distances")]
    if not rows:
        return []
    descriptions = read_json(results / "features.json")
    compared = _read(results, "distances_compared")
    sections = []
    for features in dict.fromkeys(r["features"] for r in rows):
        own = [r for r in rows if r["features"] == features]
        metrics = list(dict.fromkeys(r["metric"] for r in own))
        models = list(dict.fromkeys(r["model"] for r in own if r["model"]))
        safe = str(features).replace(" ", "_")
        figures = {f"distances_{safe}": distance_heatmaps(own, features, metrics[0])}
        captions = {
            f"distances_{safe}": f"{metrics[0]} between domains; the diagonal is the floor, halves of one domain's "
            "subjects"
        }
        for other in models[1:]:
            name = f"distances_{safe}_{models[0]}_{other}".replace(" ", "_")
            figures[name] = paired_distances(own, features, metrics[0], models[0], other)
            captions[name] = f"{metrics[0]}: {models[0]} minus {other}, per direction"
        table = [
            {
                "kind": r["kind"], "model": r["model"] or "", "from": r["source"], "to": r["target"],
                "metric": r["metric"],
                "value (95 % interval)": f"{number(r['value'], 2)} ({_interval(r)})",
                "slices": f"{int(r['n_slices'])}", "subjects": f"{int(r['n_subjects'])}",
            }
            for r in own
        ]  # fmt: skip
        note = (
            f"{descriptions.get(features, '')} Equal numbers of slices in every cell; intervals redraw subjects. "
            "Below the floor a distance means nothing: generated images share their subjects with the real ones."
        )
        tables = {
            f"distances_{safe}": table,
            f"compared_{safe}": [_compared(r) for r in compared if r["features"] == features],
        }
        captions[f"compared_{safe}"] = (
            "Mean over cells, interval by redrawing subjects; the p and d over cells treat dependent cells as "
            "independent, as the paper does"
        )
        sections.append(Section(f"Distances between domains: {features}", [note], tables, figures, captions))
    return sections


def _compared(row: dict[str, str]) -> dict[str, str]:
    return {
        "metric": row["metric"],
        "model minus other": f"{row['model']} - {row['other']}",
        "mean (95 % interval)": f"{number(row['mean'], 2)} ({_interval(row)})",
        "cells": row["n_cells"],
        "subjects": row["n_subjects"],
        "p over cells (Friedman)": number(row["friedman_p_over_cells"], 4),
        "d over cells": number(row["cohens_d_over_cells"], 2),
    }


def _rates(rows: Sequence[dict[str, str]]) -> Table:
    return [
        {
            "model": r["model"], "t1ce": f"{r['method']} {r['source']}".strip(), "rate": r["rate"],
            "k of n": f"{r['k']} of {r['n']}",
            "value (95 % interval)": f"{number(r['value'], 2)} ({_interval(r)})",
        }
        for r in rows
        if int(r["n"])
    ]  # fmt: skip


def _volumes(rows: Sequence[dict[str, str]]) -> Table:
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["model"], f"{row['method']} {row['source']}".strip()), []).append(row)
    return [
        {"model": model, "t1ce": what, "n": str(len(own))}
        | {
            name: f"{np.median([float(r[key]) for r in own]):.2f}"
            for key, name in (("false_et_ml", "false ET"), ("missed_et_ml", "missed ET"))
        }
        for (model, what), own in groups.items()
    ]


def _separation(rows: Sequence[dict[str, str]]) -> Table:
    return [
        {
            "vectors": "shared features" if r["space"] == "features" else "codes (heads)",
            "test": r["test"],
            "encoder": r["encoder"],
            "accuracy (95 % interval)": f"{number(r['accuracy'], 2)} ({_interval(r)})",
            "chance": number(r["chance"], 2),
            "silhouette": number(r["silhouette"], 2),
            "n": r["n"],
            "subjects": r["n_subjects"],
        }
        for r in sorted(rows, key=lambda r: (r["space"] != "features", r["test"]))
    ]


def _read(results: Path, name: str) -> list[dict[str, str]]:
    path = results / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _value(text: str) -> Any:
    """Read a cell as a number where it is one, a whole one where it has no point."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
