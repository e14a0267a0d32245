"""The report: tables and figures in one HTML file that needs no network, and each beside it as CSV, PNG and SVG."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from ummgat import __version__
from ummgat.evaluate.segmentation import read_results
from ummgat.evaluate.statistics import Summary, smallest_p
from ummgat.evaluate.tables import PAPER_SOURCE, REGION_ORDER, Cell, Treatment, automatic, cells, paper_dice, wins
from ummgat.files import write_json, write_text
from ummgat.report.figures import heatmap, label_of, scatter, single_missing

Table = list[dict[str, str]]


def build_report(results: Path, out: Path, calibration: Path | None = None, dataset: str | None = "BraTS2019") -> Path:
    """Write `report.html` and what it shows.

    Parameters
    ----------
    results : Path
        Folder that `ummgat evaluate` wrote.
    out : Path
        New folder.
    calibration : Path, optional
        The same of the selection part: per scenario it chooses the substitute of the row `auto`. Without it there is none.
    dataset : str, optional
        Whose rows of the paper to print beside ours.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    FileNotFoundError, ValueError
        No results, not results, or calibration subjects among those tested on.
    """
    rows_read = read_results(results / "results.csv")
    table = cells(rows_read)
    if not table:
        raise ValueError(
            f"Results are empty: {results}. Found no row; expected an evaluation. Run `ummgat evaluate` first."
        )
    settings = json.loads((results / "settings.json").read_text(encoding="utf-8"))
    chosen = automatic(cells(read_results(calibration / "results.csv")), table) if calibration is not None else None
    paper = paper_dice(dataset) if dataset else {}
    subjects = sorted({s for c in table for s in c.dice})
    tables = {
        "complete": _dice_table([c for c in table if c.treatment.scenario == "none"], paper),
        "scenarios": _dice_table([c for c in table if c.treatment.scenario not in ("none", "random")], paper),
        "random": _dice_table([c for c in table if c.treatment.scenario == "random"], {}),
        "hd95": _hd95_table(table),
        "auto": _auto_table(chosen, table) if chosen is not None else [],
    }
    figures = {
        f"heatmap_{region}": heatmap(table, region) for region in REGION_ORDER if any(c.region == region for c in table)
    }
    figures |= {"single_missing": single_missing(table), "scatter": scatter(table)}
    pictures = {name: _write_figure(out, name, figure) for name, figure in figures.items()}
    for name, rows in tables.items():
        if rows:
            write_text(out / f"{name}.csv", _as_csv(rows))
    facts = {
        "n": len(subjects),
        "subjects": subjects,
        "smallest_p": smallest_p(len(subjects)) if len(subjects) > 1 else None,
        "wins": {rival: wins(table, rival)._asdict() for rival in ("same-source", "best")},
        "both_empty": sum(1 for row in rows_read if float(row["true_ml"]) == 0 == float(row["found_ml"])),
        "settings": settings,
        "version": __version__,
    }
    write_json(out / "facts.json", facts)
    template = resources.files("ummgat").joinpath("report", "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(
        facts=facts,
        tables=tables,
        pictures=pictures,
        paper_source=PAPER_SOURCE if paper else "",
        has_auto=chosen is not None,
    )
    write_text(out / "report.html", html)
    return out / "report.html"


def _dice_table(table: Sequence[Cell], paper: Mapping[tuple[str, str, str, str], Summary]) -> Table:
    """A row per scenario and substitute; per region our median [quartiles], the test against the copy, the paper's median."""
    rows: dict[Treatment, dict[str, str]] = {}
    for cell in table:
        t = cell.treatment
        row = rows.setdefault(t, {"missing": t.scenario, "substitute": label_of(t), "n": str(cell.summary.n)})
        row[cell.region] = str(cell.summary)
        if any(c.against_copy for c in table):
            row[f"{cell.region} vs copy"] = _test(cell)
        if paper:
            theirs = paper.get((t.scenario, t.method, t.source, cell.region)) if t.segmenter == "plain" else None
            row[f"{cell.region} paper"] = str(theirs) if theirs else ""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows.values()]


def _test(cell: Cell) -> str:
    """Median difference from the same-source copy with its interval, and p (corrected where it is one of the tested)."""
    c = cell.against_copy
    if c is None or c.n == 0:
        return ""
    text = f"{c.median_difference:+.3f} ({c.low:+.3f} to {c.high:+.3f})"
    if c.p is None:
        return f"{text}, no test possible"
    corrected = "" if cell.corrected_p is None else f", Holm {cell.corrected_p:.2g}"
    return f"{text}, p {c.p:.2g}{corrected}, r {c.effect:+.2f}"


def _hd95_table(table: Sequence[Cell]) -> Table:
    """Median [quartiles] in mm, and for how many subjects a distance exists at all."""
    rows: dict[Treatment, dict[str, str]] = {}
    for cell in table:
        t = cell.treatment
        row = rows.setdefault(t, {"missing": t.scenario, "substitute": label_of(t)})
        s = cell.hd95_summary
        row[f"{cell.region} mm"] = f"{s.median:.1f} [{s.q25:.1f}, {s.q75:.1f}]" if s.n else "none"
        row[f"{cell.region} n"] = str(s.n)
    return list(rows.values())


def _auto_table(chosen: Mapping[str, Treatment], table: Sequence[Cell]) -> Table:
    """What calibration subjects chose, and what it came to on these."""
    rows = []
    for scenario, treatment in chosen.items():
        row = {"missing": scenario, "chosen on calibration subjects": label_of(treatment)}
        row |= {c.region: str(c.summary) for c in table if c.treatment == treatment}
        rows.append(row)
    return rows


def _as_csv(rows: Table) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_figure(out: Path, name: str, figure: Figure) -> dict[str, Any]:
    """Write PNG and SVG; returns the PNG for embedding."""
    images = {}
    for kind in ("png", "svg"):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=130)
        images[kind] = data.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.png").write_bytes(images["png"])
    (out / f"{name}.svg").write_bytes(images["svg"])
    return {"name": name, "data": base64.b64encode(images["png"]).decode("ascii")}
