"""The page about an evaluation, from rows whose story one knows."""

import csv
import json
import re

import pytest
from typer.testing import CliRunner

from test_tables import row
from ummgat.cli import app
from ummgat.evaluate.results import COLUMNS
from ummgat.report.card import _cell
from ummgat.report.page import build_report


def write_results(folder, rows, subjects="s"):
    folder.mkdir(parents=True)
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(r | {"subject": subjects + r["subject"]} for r in rows)
    settings = {"model": "abc", "segmenters": {"plain": "<b>def</b>"}, "part": "test"}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def story(n=5):
    rows = []
    for i in range(n):
        for region in ("WT", "TC", "ET"):
            rows.append(row(f"{i}", "complete", 0.9, source="", scenario="none", region=region, rule=""))
            rows.append(row(f"{i}", "empty", 0.0, source="", region=region, rule=""))
            rows.append(row(f"{i}", "copy", 0.5 + 0.01 * i, region=region))
            rows.append(row(f"{i}", "generate", 0.6 + 0.021 * i, region=region))
            rows.append(row(f"{i}", "generate", 0.7, region=region, scenario="random", rule="criteria"))
    return rows


def test_page_tells_wins_tests_and_the_paper(tmp_path):
    page = build_report(write_results(tmp_path / "ev", story()), tmp_path / "out", dataset="BraTS2019")
    html = page.read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "out" / "facts.json").read_text(encoding="utf-8"))
    assert facts["n"] == 5
    assert facts["wins"]["same-source"] == {"won": 3, "tied": 0, "lost": 0}
    assert "cannot go below 0.062" in html
    assert "+0.122" in html  # median difference to the copy
    assert "0.865 [0.744, 0.912]" not in html or "paper" in html
    with (tmp_path / "out" / "scenarios.csv").open(encoding="utf-8") as file:
        rows = {r["substitute"]: r for r in csv.DictReader(file)}
    assert rows["generate t1"]["WT"] == "0.642 [0.621, 0.663]"
    assert rows["generate t1"]["WT paper"] == "0.865 [0.742, 0.908]"
    assert rows["empty"]["WT vs copy"] == ""
    assert "Holm 0.19" in rows["generate t1"]["WT vs copy"]
    assert "&lt;b&gt;def" in html  # nothing from files becomes markup
    assert not re.search(r'(?:src|href)="(?!data:|#s)', html)


def test_numbers_of_the_paper_are_printed_only_when_asked_for(tmp_path):
    html = build_report(write_results(tmp_path / "ev", story()), tmp_path / "out").read_text(encoding="utf-8")
    assert "WT paper" not in html
    assert "UNFINISHED" not in html


def unfinished(folder, rows, subjects):
    """Results of a run that was to evaluate `subjects`."""
    write_results(folder, rows)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8")) | {"subjects": subjects}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_a_page_on_an_unfinished_evaluation_says_so_first_and_names_every_gap(tmp_path):
    whole = story(4)
    rows = [
        r for r in whole if not (r["subject"] == "3" and r["method"] in ("generate", "empty") and r["scenario"] == "t2")
    ]
    results = unfinished(tmp_path / "ev", rows, ["s0", "s1", "s2", "s3", "s9"])
    shown = CliRunner().invoke(app, ["report", str(results), str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "rows of 2 subjects are missing" in " ".join(shown.output.split())
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert html.index("UNFINISHED") < html.index("In short")
    with (tmp_path / "out" / "missing_rows.csv").open(encoding="utf-8") as file:
        found = [(r["subject"], r["missing"], r["n"], r["substitutes"]) for r in csv.DictReader(file)]
    assert found == [("s3", "t2", "2", "empty; generate t1"), ("s9", "all", "all", "all")]


def test_auto_appears_with_calibration_only_and_is_chosen_there(tmp_path):
    results = write_results(tmp_path / "ev", story())
    plain = build_report(results, tmp_path / "plain").read_text(encoding="utf-8")
    assert "Chosen on calibration" not in plain
    other = write_results(tmp_path / "cal", [r for r in story() if r["method"] != "generate"], subjects="c")
    html = build_report(results, tmp_path / "auto", other).read_text(encoding="utf-8")
    assert "Chosen on calibration" in html
    assert "copy t1" in (tmp_path / "auto" / "auto.csv").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="Calibration and test overlap"):
        build_report(results, tmp_path / "never", results)


def test_one_subject_prints_no_p(tmp_path):
    html = build_report(write_results(tmp_path / "ev", story(1)), tmp_path / "out").read_text(encoding="utf-8")
    assert "no test possible" in html
    assert not re.search(r"\bp \d", html)


def test_empty_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Results are empty"):
        build_report(write_results(tmp_path / "ev", []), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_model_card_holds_short_tables_and_the_notes_and_names_the_files_of_long_ones(
    tmp_path, model_path, model, monkeypatch
):
    """Cells that look like markup stay text."""
    monkeypatch.setattr("ummgat.report.card.LINES", 3)
    results = write_results(tmp_path / "ev", story())
    settings = json.loads((results / "settings.json").read_text(encoding="utf-8")) | {"model": model.hash}
    (results / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    build_report(results, tmp_path / "out", dataset="BraTS2019", model=model_path, notes="## Licence\n\nAsk first.")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith(f"# Model card: {model_path.name}\n")
    assert model.hash in card
    assert "## Licence\n\nAsk first." in card
    for name in model.table.names:
        assert name in card
    lines = card.splitlines()
    tables = sorted(path for path in (tmp_path / "out").glob("*.csv"))
    assert tables
    shown = 0
    for path in tables:
        with path.open(encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        if len(rows) > 3:
            assert any(line.endswith(f"{len(rows)} rows in `{path.name}`.") for line in lines), path
            assert "| " + " | ".join(rows[0]) + " |" not in lines
            continue
        shown += 1
        start = lines.index("| " + " | ".join(header) + " |")
        assert lines[start + 1] == "|" + "---|" * len(header)
        for i, values in enumerate(rows):
            assert lines[start + 2 + i] == "| " + " | ".join(values) + " |", path
    assert 0 < shown < len(tables)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["train"]["iterations"]
    assert len(lines) < 250


def test_model_card_of_another_model_is_refused_and_nothing_is_written(tmp_path, model_path):
    results = write_results(tmp_path / "ev", story())
    with pytest.raises(ValueError, match=r"another model: model.safetensors. Found results of abc; expected"):
        build_report(results, tmp_path / "out", model=model_path)
    assert not (tmp_path / "out").exists()


def test_cells_of_a_card_are_text():
    assert _cell("a|b <i> & c\nd") == "a\\|b &lt;i> &amp; c d"
