"""The report: sections in one HTML file that needs no network, and every table and figure beside it as a file."""

import base64
import io
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from ummgat.core.files import atomic_path, csv_text, read_json, write_json, write_text
from ummgat.core.version import __version__
from ummgat.evaluate.results import Row, read_results
from ummgat.evaluate.statistics import smallest_p
from ummgat.evaluate.tables import automatic, cells, paper_dice, wins
from ummgat.evaluate.unfinished import missing_rows
from ummgat.model.weights import load_model
from ummgat.report.card import model_card
from ummgat.report.images import image_sections
from ummgat.report.scenarios import dice_table, scenario_sections
from ummgat.report.section import Section
from ummgat.report.shift import shift_section

WHO = {
    "test": "none trained a network, and none chose a setting",
    "selection": "none trained a network; checkpoints and settings were chosen by them, which flatters the result",
    "all": "each segmented by a network that never saw it",
}
"""Part of the draw → what its subjects have and have not done."""


def build_report(
    results: Path,
    out: Path,
    calibration: Path | None = None,
    dataset: str | None = None,
    shifts: Sequence[Path] = (),
    model: Path | None = None,
    notes: str = "",
) -> Path:
    """Write `report.html` and what it shows, and a model card if the model is given.

    Parameters
    ----------
    results : Path
        Folder that `ummgat evaluate` wrote; what it holds of image quality, codes and pictures is shown too.
    out : Path
        New folder.
    calibration : Path, optional
        The same of the selection part: per scenario it chooses the substitute of the row `auto`. Without it there is
        none.
    dataset : str, optional
        Whose rows of the paper to print beside ours. Default: none, since they are of other subjects, segmenters and
        voxels.
    shifts : sequence of Path
        Folders that `ummgat cross-center` wrote.
    model : Path, optional
        The generative model that was evaluated: `MODEL_CARD.md` is written about it.
    notes : str
        Markdown for the card, see `ummgat.report.card.model_card`.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    FileNotFoundError, ValueError
        No results, not results, calibration subjects among those tested on, or another model than the one evaluated.
    """
    rows = read_results(results / "results.csv")
    if not rows:
        raise ValueError(
            f"Results are empty: {results}. Found no row; expected an evaluation. Run `ummgat evaluate` first."
        )
    grid = max((row["grid_mm"] for row in rows), key=float)
    table = cells(_on(grid, rows))
    settings = read_json(results / "settings.json")
    chosen = None
    if calibration is not None:
        theirs = read_results(calibration / "results.csv")
        chosen = automatic(cells(_on(grid, theirs)), table)
    sections = scenario_sections(table, paper_dice(dataset) if dataset else {}, chosen)
    for other in sorted({row["grid_mm"] for row in rows} - {grid}, key=float):
        sections.append(_finer(_on(other, rows), other, grid))
    who, *images = image_sections(results)
    lacking = missing_rows(rows, list(settings.get("subjects", ())))
    sections = [*_unfinished(lacking), who, *sections, *images]
    sections += [shift_section(folder) for folder in shifts]
    subjects = sorted({s for c in table for s in c.dice})
    facts = {
        "n": len(subjects),
        "subjects": subjects,
        "grid_mm": grid,
        "smallest_p": smallest_p(len(subjects)) if len(subjects) > 1 else None,
        "wins": {rival: wins(table, rival)._asdict() for rival in ("same-source", "best")},
        "wins_by_region": {
            region: {
                rival: wins([c for c in table if c.region == region], rival)._asdict()
                for rival in ("same-source", "best")
            }
            for region in dict.fromkeys(c.region for c in table)
        },
        "both_empty": sum(1 for row in rows if float(row["true_ml"]) == 0 == float(row["found_ml"])),
        "who": WHO.get(settings["part"], ""),
        "lacking": len({line["subject"] for line in lacking}),
        "seen": len(settings.get("in_training_part", ())),
        "settings": settings,
        "version": __version__,
    }
    shown = [section for section in sections if not section.empty or (section.notes and section is not who)]
    if model is not None:
        trained = load_model(model)
        write_text(out / "MODEL_CARD.md", model_card(trained, model.name, facts, shown, notes))
        write_json(out / "config.json", trained.config.model_dump(mode="json"))
    write_json(out / "facts.json", facts)
    pictures = {name: _keep(out, name, figure) for section in shown for name, figure in section.figures.items()}
    for section in shown:
        for name, lines in section.tables.items():
            if lines:
                write_text(out / f"{name}.csv", csv_text(lines, list(lines[0])))
    template = resources.files("ummgat").joinpath("report", "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(facts=facts, sections=shown, pictures=pictures)
    write_text(out / "report.html", html)
    return out / "report.html"


def _unfinished(lacking: Sequence[Mapping[str, str]]) -> list[Section]:
    """What is not there, before anything that rests on the rest."""
    if not lacking:
        return []
    subjects = list(dict.fromkeys(line["subject"] for line in lacking))
    note = (
        f"UNFINISHED: rows are missing of {len(subjects)} subjects "
        f"({', '.join(subjects[:10])}{', …' if len(subjects) > 10 else ''}). Rows of a table may be of different "
        f"subjects, as their n tells; wins and tests count the subjects that both sides have. Run the same `ummgat "
        f"evaluate` again: it goes on where it was, and says which subjects fail and why."
    )
    return [Section("What is missing", [note], {"missing_rows": [dict(line) for line in lacking]}, group="subject")]


def _on(grid: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["grid_mm"] == grid]


def _finer(rows: Sequence[Row], grid: str, own: str) -> Section:
    """The same segmentations, judged with smaller voxels beside what the grid alone costs."""
    note = (
        f"Labels found at {own} mm, brought to {grid} mm (nearest) and compared with the annotation there. The round "
        f"trip is the annotation itself taken to {own} mm and back: no segmenter at {own} mm can do better."
    )
    table = dice_table([c for c in cells(rows) if c.treatment.scenario != "random"], {})
    return Section(f"Judged at {grid} mm", [note], {f"scenarios_{grid}mm": table}, group="missing")


def _keep(out: Path, name: str, figure: Figure | Path) -> str:
    """Write PNG and SVG of a figure, or a copy of a picture; returns the PNG in base64."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(figure, Path):
        with atomic_path(out / f"{name}.png") as temporary:
            shutil.copyfile(figure, temporary)
    else:
        for kind in ("png", "svg"):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=130)
            with atomic_path(out / f"{name}.{kind}") as temporary:
                temporary.write_bytes(data.getvalue())
    return base64.b64encode((out / f"{name}.png").read_bytes()).decode("ascii")
