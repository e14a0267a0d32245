"""Section on a center's segmenter at other centers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ummgat.core.files import read_json
from ummgat.evaluate.results import read_results
from ummgat.evaluate.tables import Cell, cells, paired
from ummgat.report.figures import METHOD_COLORS
from ummgat.report.section import Section, Table

SHOWN = {
    "complete": "as they are",
    "matched": "histogram-matched",
    "generate": "aligned",
    "scanned": "as scanned at home",
}


def shift_section(folder: Path) -> Section:
    """Tables and a figure of a folder that `ummgat cross-center` wrote."""
    table = cells(read_results(folder / "results.csv"))
    settings = read_json(folder / "settings.json")
    home, sequences = settings["home"], ", ".join(settings["sequences"])
    name = f"cross_center_{home}_{folder.name}"
    note = (
        f"Segmenter of center {home} on {sequences} ({settings['part']} part). Images of other centers as they are, "
        f"matched to {home}'s histogram, and aligned to {home} by the model. Differences are from the images as they "
        f"are, on the same subjects. Centers may differ in their patients too, not only in their scanners."
    )
    return Section(
        f"Across centers: segmenter of {home}", [note], {name: _table(table)}, {f"{name}_dice": _figure(table)}
    )


def _table(table: Sequence[Cell]) -> Table:
    rows = []
    raw = {(c.treatment.scenario, c.region): c for c in table if c.treatment.method == "complete"}
    for cell in table:
        scenario, method = cell.treatment.scenario, cell.treatment.method
        row = {"subjects": scenario, "images": SHOWN[method], "region": cell.region, "n": str(cell.summary.n)}
        row["Dice"] = str(cell.summary)
        base, row["minus as they are"] = raw.get((scenario, cell.region)), ""
        if base is not None and base is not cell:
            c = paired(cell, base)
            tested = f", p {c.p:.2g} (cannot go below {c.smallest_p:.2g})" if c.p is not None else ", no test possible"
            row["minus as they are"] = f"{c.median_difference:+.3f} ({c.low:+.3f} to {c.high:+.3f}){tested}"
        rows.append(row)
    return rows


def _figure(table: Sequence[Cell]) -> Figure:
    """Dice of every subject, lines join a subject under the different images."""
    scenarios = list(dict.fromkeys(c.treatment.scenario for c in table))
    figure = Figure(figsize=(2.6 * len(scenarios) + 0.6, 3.6), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(scenarios), sharey=True))
    for axes, scenario in zip(all_axes, scenarios, strict=True):
        own = [c for c in table if c.treatment.scenario == scenario and c.region == "WT"]
        for subject in sorted({s for c in own for s in c.dice}):
            axes.plot(range(len(own)), [c.dice.get(subject, np.nan) for c in own], color="#999999", lw=0.7, zorder=1)
        for i, cell in enumerate(own):
            color = METHOD_COLORS.get(cell.treatment.method, "#000000")
            axes.plot([i] * len(cell.dice), list(cell.dice.values()), "o", ms=4, color=color)
            axes.plot([i - 0.3, i + 0.3], [cell.summary.median] * 2, color=color, lw=2)
        axes.set_xticks(range(len(own)), [SHOWN[c.treatment.method] for c in own], rotation=30, ha="right", fontsize=7)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(-0.6, max(len(own), 1) - 0.4)
        axes.set_title(f"{scenario} (n = {max((c.summary.n for c in own), default=0)})", fontsize=9)
    all_axes[0].set_ylabel("WT: Dice")
    return figure
