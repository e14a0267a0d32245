"""Figures of an evaluation. Each returns a matplotlib figure; nothing is drawn to a screen."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ummgat.evaluate.tables import Cell, Treatment

WORST, BEST = 0.0, 1.0

METHOD_COLORS = {
    "empty": "#999999",
    "copy": "#0072b2",
    "matched": "#56b4e9",
    "atlas": "#009e73",
    "generate": "#d55e00",
    "fuse": "#e69f00",
}
"""Okabe & Ito 2008: told apart by colour-blind readers."""


def label_of(treatment: Treatment) -> str:
    """Name of a substitute as it is printed: `copy t2`, `empty`, `generate t1:t1ce, t2:flair`."""
    text = f"{treatment.method} {treatment.source.replace(';', ', ')}".strip()
    return text if treatment.segmenter == "plain" else f"{text} [{treatment.segmenter}]"


def heatmap(table: Sequence[Cell], region: str) -> Figure:
    """Median Dice of every scenario (rows) with the best source of every method (columns); n in the title.

    The best of several sources is chosen on these very subjects, for every method alike.
    """
    columns = [("plain", m) for m in METHOD_COLORS]
    columns += [("dropout", m) for m in ("empty", "generate")]
    here = [c for c in table if c.region == region and c.treatment.scenario not in ("none", "random")]
    columns = [c for c in columns if any((x.treatment.segmenter, x.treatment.method) == c for x in here)]
    scenarios = list(dict.fromkeys(c.treatment.scenario for c in here))
    values = np.full((len(scenarios), len(columns)), np.nan)
    for cell in here:
        key = (cell.treatment.segmenter, cell.treatment.method)
        if key in columns:
            at = scenarios.index(cell.treatment.scenario), columns.index(key)
            values[at] = np.nanmax([values[at], cell.summary.median])
    figure = Figure(figsize=(1.5 + 1.05 * len(columns), 1.4 + 0.34 * len(scenarios)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=WORST, vmax=BEST, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.5 else "black", fontsize=8
            )
    names = [m if s == "plain" else f"{m}\n[{s}]" for s, m in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=8)
    axes.set_yticks(range(len(scenarios)), scenarios, fontsize=8)
    axes.set_ylabel("missing")
    n = max((c.summary.n for c in here), default=0)
    axes.set_title(f"{region}: median Dice, best source of each method (n = {n})", fontsize=9)
    figure.colorbar(image, ax=axes, label="Dice")
    return figure


def scatter(table: Sequence[Cell]) -> Figure:
    """Every subject and scenario: Dice with the generated image against Dice with the copy from the same source."""
    regions = list(dict.fromkeys(c.region for c in table))
    figure = Figure(figsize=(3.4 * len(regions) + 0.4, 4.2), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(regions), sharey=True))
    colors = colormaps["cividis"](np.linspace(0, 0.9, 3))
    for axes, region in zip(all_axes, regions, strict=True):
        copies = {c.treatment: c for c in table if c.treatment.method == "copy" and c.region == region}
        better = worse = 0
        for cell in table:
            if cell.treatment.method != "generate" or cell.region != region or cell.treatment.segmenter != "plain":
                continue
            copy = copies.get(cell.treatment._replace(method="copy"))
            if copy is None or cell.treatment.scenario == "random":
                continue
            n_missing = cell.treatment.scenario.count("+") + 1
            common = [s for s in cell.dice if s in copy.dice]
            x, y = ([c.dice[s] for s in common] for c in (copy, cell))
            better += sum(b > a for a, b in zip(x, y, strict=True))
            worse += sum(b < a for a, b in zip(x, y, strict=True))
            axes.plot(x, y, ".", ms=4, alpha=0.5, color=colors[min(n_missing, 3) - 1])
        axes.plot([0, 1], [0, 1], color="black", lw=0.8)
        axes.set(xlabel="Dice, copied", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_title(f"{region}: {better} better, {worse} worse", fontsize=9)
    all_axes[0].set_ylabel("Dice, generated")
    handles = [all_axes[0].plot([], [], ".", color=colors[i], label=f"{i + 1} missing")[0] for i in range(3)]
    all_axes[0].legend(handles=handles, fontsize=7, loc="upper left")
    return figure


def single_missing(table: Sequence[Cell]) -> Figure:
    """One missing sequence: Dice of each subject under each method, best source; the line is complete data."""
    regions = list(dict.fromkeys(c.region for c in table))
    scenarios = [
        s for s in dict.fromkeys(c.treatment.scenario for c in table) if s not in ("none", "random") and "+" not in s
    ]
    figure = Figure(figsize=(2.2 * max(len(scenarios), 1) + 1, 2.3 * len(regions)), layout="constrained")
    grid = figure.subplots(len(regions), max(len(scenarios), 1), squeeze=False, sharey=True)
    for i, region in enumerate(regions):
        complete = [
            c.summary.median for c in table if c.treatment == ("none", "plain", "complete", "") and c.region == region
        ]
        for j, scenario in enumerate(scenarios):
            axes = grid[i, j]
            for k, (method, color) in enumerate(METHOD_COLORS.items()):
                own = [c for c in table if c.region == region and c.treatment[:3] == (scenario, "plain", method)]
                if not own:
                    continue
                best = max(own, key=lambda c: c.summary.median)
                values = list(best.dice.values())
                axes.plot(np.linspace(k - 0.2, k + 0.2, len(values)), sorted(values), ".", color=color, ms=5)
                axes.plot([k - 0.35, k + 0.35], [best.summary.median] * 2, color=color, lw=2)
            if complete:
                axes.axhline(complete[0], color="black", lw=0.8, ls="--")
            axes.set_xticks(
                range(len(METHOD_COLORS)), list(METHOD_COLORS) if i == len(regions) - 1 else [], rotation=60, fontsize=7
            )
            axes.set_ylim(-0.03, 1.03)
            if i == 0:
                axes.set_title(f"{scenario} missing", fontsize=9)
            if j == 0:
                axes.set_ylabel(f"{region}: Dice", fontsize=8)
    return figure
