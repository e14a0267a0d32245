"""Figures of image quality: distances between domains, models side by side, rates of false and absent enhancement.

Each returns a matplotlib figure; nothing is drawn to a screen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ummgat.quality.distances import FLOOR, GENERATED, REAL, WITHOUT_LAM
from ummgat.report.figures import METHOD_COLORS

Row = dict[str, Any]

TRUE_COLOR = "#555555"

MODEL_COLORS = (METHOD_COLORS["generate"], "#cc79a7", "#009e73", "#f0e442")
"""Okabe & Ito 2008, of models in the order in which they appear."""


def distance_heatmaps(rows: Sequence[Row], features: str, metric: str) -> Figure:
    """Distances between domains: real to real, then one panel per model, generated from the row's domain to the
    column's.

    On the diagonals the floor: halves of the column's real subjects against each other; blank where there were too few.
    One colour scale for all panels.
    """
    chosen = [r for r in rows if r["features"] == features and r["metric"] == metric]
    models = list(dict.fromkeys((r["kind"], r["model"]) for r in chosen if r["kind"] in (WITHOUT_LAM, GENERATED)))
    domains = list(dict.fromkeys(d for r in chosen for d in (r["source"], r["target"])))
    tables = [_table(chosen, domains, REAL, "")] + [_table(chosen, domains, kind, model) for kind, model in models]
    names = ["real to real", *(f"{kind}: {model}" for kind, model in models)]
    finite = np.concatenate([t[np.isfinite(t)] for t in tables])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    side = 1.2 + 0.62 * len(domains)
    figure = Figure(figsize=(side * len(tables) + 1.2, side + 0.9), layout="constrained")
    all_axes: list[Axes] = np.atleast_1d(figure.subplots(1, len(tables))).tolist()
    image = None
    for axes, table, name in zip(all_axes, tables, names, strict=True):
        image = axes.imshow(table, cmap="cividis_r", vmin=low, vmax=high)
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                dark = high > low and (value - low) / (high - low) > 0.5
                axes.text(j, i, _short(value), ha="center", va="center", color="white" if dark else "black", fontsize=8)
        axes.set_xticks(range(len(domains)), domains, rotation=60, fontsize=8)
        axes.set_yticks(range(len(domains)), domains, fontsize=8)
        axes.set_xlabel("real target", fontsize=8)
        axes.set_ylabel("real" if name == names[0] else "generated from", fontsize=8)
        axes.set_title(name, fontsize=9)
    figure.colorbar(image, ax=all_axes, label=metric, shrink=0.8)  # type: ignore[arg-type]
    figure.suptitle(f"{_called(features, metric)}, {_numbers(chosen)}; diagonal: real against real, floor", fontsize=9)
    return figure


def _called(features: str, metric: str) -> str:
    return metric if metric in ("FID", "KID") else f"{metric} ({features})"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _numbers(rows: Sequence[Row]) -> str:
    slices = sorted({r["n_slices"] for r in rows})
    subjects = sorted({r["n_subjects"] for r in rows if r["kind"] != FLOOR})
    parts = [f"{v[0]} to {v[-1]}" if len(v) > 1 else f"{v[0] if v else 0}" for v in (slices, subjects)]
    return f"n = {parts[0]} slices per set, {parts[1]} subjects"


def _table(rows: Sequence[Row], domains: Sequence[str], kind: str, model: str) -> Any:
    table = np.full((len(domains), len(domains)), np.nan)
    for row in rows:
        i, j = domains.index(row["source"]), domains.index(row["target"])
        if row["kind"] == FLOOR or (row["kind"] == kind and row["model"] == model):
            table[i, j] = row["value"]
            if row["kind"] == REAL:
                table[j, i] = row["value"]
    return table


def paired_distances(rows: Sequence[Row], features: str, metric: str, model: str, other: str) -> Figure:
    """Every cell (source → target): distance of `model` minus that of `other`, sorted; left of zero `model` is
    closer.
    """
    values: dict[str, dict[tuple[str, str], float]] = {model: {}, other: {}}
    chosen = [r for r in rows if r["features"] == features and r["metric"] == metric and r["model"] in values]
    for row in chosen:
        values[row["model"]][row["source"], row["target"]] = row["value"]
    common = [c for c in values[model] if c in values[other]]
    found = sorted((values[model][c] - values[other][c], f"{c[0]} → {c[1]}") for c in common)
    figure = Figure(figsize=(6.2, 1.5 + 0.2 * len(found)), layout="constrained")
    axes = figure.subplots()
    for i, (difference, _) in enumerate(found):
        color = METHOD_COLORS["copy"] if difference < 0 else METHOD_COLORS["generate"]
        axes.plot([0, difference], [i, i], color=color, lw=1.5)
        axes.plot([difference], [i], "o" if difference < 0 else "s", color=color, ms=5)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(found)), [name for _, name in found], fontsize=7)
    axes.set_xlabel(f"{_called(features, metric)}: {model} minus {other}", fontsize=8)
    closer = sum(d < 0 for d, _ in found)
    axes.set_title(f"{model} closer to real in {closer} of {len(found)} cells; {_numbers(chosen)}", fontsize=9)
    return figure


def enhancement_bars(rates: Sequence[Row]) -> Figure:
    """Rates of absent and false enhancement with their intervals, one panel per rate, k of n beside each bar."""
    names = [n for n in dict.fromkeys(r["rate"] for r in rates) if any(r["n"] for r in rates if r["rate"] == n)]
    keys = list(dict.fromkeys((r["model"], r["method"], r["source"]) for r in rates))
    models = [m for m in dict.fromkeys(k[0] for k in keys) if m]
    if not names:
        raise ValueError("No rate to draw. Found no row with n above 0; expected at least one. Measure subjects first.")
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(1.8 + 2.7 * columns, lines * (0.8 + 0.24 * len(keys))), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        for i, key in enumerate(keys):
            for row in rates:
                if (row["model"], row["method"], row["source"]) != key or row["rate"] != name or row["n"] == 0:
                    continue
                axes.barh(i, row["value"], color=_color(key, models), height=0.7, alpha=0.7)
                axes.plot([row["low"], row["high"]], [i, i], "|-", color="black", lw=1.2, ms=6)
                axes.text(1.03, i, f"{row['k']}/{row['n']}", fontsize=7, va="center")
        axes.set_yticks(range(len(keys)), [_label(key, len(models) > 1) for key in keys], fontsize=7)
        axes.set_xlim(0, 1.25)
        axes.set_xticks([0, 0.5, 1])
        axes.set_title(name, fontsize=8)
    grid[0, 0].invert_yaxis()
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    n = max(r["n_subjects"] for r in rates)
    figure.suptitle(f"t1ce generated, copied or true (complete): 95 % Wilson intervals, {n} subjects", fontsize=9)
    return figure


def _label(key: tuple[str, str, str], named: bool) -> str:
    model, method, source = key
    return f"{method} {source}".strip() + (f" [{model}]" if model and named else "")


def _color(key: tuple[str, str, str], models: Sequence[str]) -> Any:
    model, method, _ = key
    if not model:
        return METHOD_COLORS.get(method, TRUE_COLOR)
    i = models.index(model)
    return MODEL_COLORS[i] if i < len(MODEL_COLORS) else colormaps["cividis"](i / len(models))
