"""Measures and pictures of images, their sections, and runs side by side: on the miniature cohort."""

import csv
import json
import shutil

import numpy as np
import pytest

from conftest import slices
from test_report import story, write_results
from ummgat.core.study import LABELS
from ummgat.evaluate.scenarios import Scenario
from ummgat.model.weights import load_model
from ummgat.quality.compare_runs import compare_runs, different
from ummgat.quality.features import random_convolutions
from ummgat.quality.gallery import LABEL_COLORS, overlays, stacks, with_and_without
from ummgat.quality.measure import PARTS, measure_images
from ummgat.report.page import build_report

SEQUENCES = ("t1", "t1ce", "t2")


class Bright:
    """Answers with the truth of the only subject it knows."""

    sequences, regions = SEQUENCES, "multi"

    def __init__(self, study):
        self.labels = np.asarray(study.labels())

    def __call__(self, images):
        return self.labels


@pytest.fixture(scope="module")
def model(model_path):
    return load_model(model_path)


@pytest.fixture(scope="module")
def studies(cohort_studies):
    return [
        s for s in cohort_studies if s.center == "A" and set(SEQUENCES) <= set(s.acquired) and s.labels() is not None
    ][:2]


@pytest.fixture(scope="module")
def measured(model, studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured")
    parts = [p for p in PARTS if p != "codes"]  # their figure has tests of its own, and takes long
    measured = measure_images(
        {"model": model, "other": model}, Bright(studies[0]), studies, out, {"a": 1}, [random_convolutions()], parts
    )
    assert (measured.left_out, measured.failed) == ([], {})
    return out


def test_every_part_is_written_once(measured, model, studies):
    names = {p.name for p in measured.iterdir()}
    assert {
        "directions.csv",
        "distances.csv",
        "distances_compared.csv",
        "enhancement.csv",
        "enhancement_rates.csv",
        "lesions.csv",
        "lesions_rates.csv",
        "pictures",
    } <= names
    pictures = {p.stem for p in (measured / "pictures").iterdir()}
    first = studies[0].subject
    assert {f"{what}_{first}" for what in ("translations", "stacks", "models", "overlays")} <= pictures
    before = {p: p.stat().st_mtime_ns for p in measured.rglob("*.*") if p.name != ".lock"}
    parts = [p for p in PARTS if p != "codes"]
    measure_images(
        {"model": model, "other": model},
        Bright(studies[0]),
        studies,
        measured,
        {"a": 1},
        [random_convolutions()],
        parts,
    )
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_model_beside_itself_differs_by_nothing(measured):
    with (measured / "distances_compared.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(float(r["mean"]) == 0 for r in rows)


def test_other_settings_and_unknown_parts_are_refused(measured, model, studies):
    given = {"model": model}, Bright(studies[0]), studies, measured
    with pytest.raises(ValueError, match="another evaluation"):
        measure_images(*given, {"a": 2}, [random_convolutions()], ["pictures"])
    with pytest.raises(ValueError, match=r"Unknown part.*Found noise"):
        measure_images(*given, {"a": 1}, [random_convolutions()], ["noise"])


def test_report_shows_what_was_measured_and_nothing_else(measured, tmp_path):
    results = write_results(tmp_path / "ev", story())
    plain = build_report(results, tmp_path / "plain").read_text(encoding="utf-8")
    for title in ("Errors of translation", "Distances between domains", "Enhancement", "Pictures", "Sequence codes"):
        assert title not in plain
    for path in measured.iterdir():
        if path.is_dir():
            shutil.copytree(path, results / path.name)
        else:
            shutil.copy(path, results / path.name)
    html = build_report(results, tmp_path / "full").read_text(encoding="utf-8")
    for title in ("Errors of translation", "Distances between domains", "Enhancement", "Pictures"):
        assert title in html
    assert "Sequence codes" not in html
    assert html.count("<img ") == html.count("data:image/png;base64,") > 6


def test_overlay_paints_labels_in_the_papers_colours(model, studies):
    figure = overlays(model, Bright(studies[0]), studies[0], [Scenario.of(("t2",))])
    truth, painted = np.asarray(studies[0].labels()), figure.axes[0].images[1]
    shown = set(np.unique(painted.get_array().compressed()).tolist())
    plane = max(range(len(truth)), key=lambda i: (truth[i] > 0).sum())
    assert shown == set(np.unique(truth[plane]).tolist()) - {0}
    from matplotlib.colors import to_hex

    assert {name: to_hex(painted.cmap(painted.norm(number))) for name, number in LABELS.items()} == LABEL_COLORS


def test_stacks_show_three_planes_of_source_translation_and_truth(model, studies):
    axes = stacks(model, studies[0], "t1", "t2").axes
    assert [a.get_title() for a in axes[:3]] == ["source t1, axial", "generated t2, axial", "true t2, axial"]
    assert len(axes) == 9
    both = with_and_without({"with": model, "without": model}, studies[0], [("t1", "t2")]).axes
    assert [a.get_title() for a in both] == ["source t1", "t2, with", "t2, without", "true t2"]


def test_runs_are_told_apart_by_what_differs(trained_run, model, studies, tmp_path):
    other = tmp_path / "shorter"
    shutil.copytree(trained_run, other)
    config = json.loads((other / "config.json").read_text())
    config["loss"]["lesion"] = 0.0
    (other / "config.json").write_text(json.dumps(config))
    rows, failed = compare_runs(
        {"run": trained_run, "shorter": other},
        studies,
        Bright(studies[0]),
        random_convolutions(),
        tmp_path / "out",
        {"b": 1},
    )
    assert failed == {}
    assert [(r["run"], r["differs in"]) for r in rows[::2]] == [
        ("run", "loss.lesion = 1.0"),
        ("shorter", "loss.lesion = 0.0"),
    ]
    assert sum("(chosen)" in r["code mode"] for r in rows) == 2
    chosen = [r for r in rows if "(chosen)" in r["code mode"]]
    same = ("mae brain", "Dice WT", "Fréchet distance (random-convolutions-1)")
    assert [chosen[0][name] for name in same] == [chosen[1][name] for name in same]  # the same weights
    assert chosen[0]["Dice WT"].count("/") == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"comparison.csv", "differences.csv", "run", "shorter"}


def test_settings_that_differ():
    rows = different({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3, "z": 0}})
    assert rows == [{"setting": "y", "a": "2", "b": "3"}, {"setting": "z", "a": "not set", "b": "0"}]


def test_slices_of_conftest_are_what_the_extractor_takes():
    assert random_convolutions()((slices(2)[:, 0] * 100 + 128).astype(np.uint8)).shape[0] == 2
