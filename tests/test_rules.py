"""Rules hold below the command line: whoever calls Python meets them too."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ummgat.check import prepared
from ummgat.check.cohort import check_cohort
from ummgat.completion import scans
from ummgat.completion.cohort import CompletionReport
from ummgat.core import machine
from ummgat.evaluate.cross_center import cross_center
from ummgat.evaluate.segmentation import evaluate
from ummgat.prepare.cohort import PrepareReport, prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.quality.compare_runs import compare_runs
from ummgat.quality.features import random_convolutions
from ummgat.quality.measure import measure_images
from ummgat.segment.folds import CrossFitted
from ummgat.segment.unseen import require_unseen

LEAK = r"Segmenter was trained on subjects it would be tested on: .* Found {}; expected none\."


class Leaking:
    """Trained on whoever it says."""

    regions, hash = "multi", "x"

    def __init__(self, subjects, sequences=("t1", "t1ce", "t2")):
        self.training, self.sequences = {"subjects": list(subjects)}, sequences

    def __call__(self, images):
        return np.zeros_like(next(iter(images.values())))


def everywhere(segmenter, model, run, studies, out):
    """The four measurements that need a segmenter, as functions of Python."""
    return {
        "evaluate": lambda: evaluate({"plain": segmenter}, model, studies, out / "e", {}, {}),
        "cross_center": lambda: cross_center(segmenter, "A", model, studies, out / "x", {}),
        "measure_images": lambda: measure_images(
            {"model": model}, segmenter, studies, out / "q", {}, [random_convolutions()], ["lesions"]
        ),
        "compare_runs": lambda: compare_runs(
            {"a": run, "b": run}, studies, segmenter, random_convolutions(), out / "c", {}
        ),
    }


@pytest.mark.parametrize("name", ["evaluate", "cross_center", "measure_images", "compare_runs"])
def test_a_segmenter_that_saw_a_subject_is_refused_before_anything_is_written(
    name, model, trained_run, studies, tmp_path
):
    leaking = Leaking([studies[1].subject, "somebody else"])
    with pytest.raises(ValueError, match=LEAK.format(studies[1].subject)):
        everywhere(leaking, model, trained_run, studies, tmp_path)[name]()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cross_center", "measure_images"])
def test_one_that_saw_others_only_is_let_in(name, model, trained_run, studies, tmp_path):
    """So the refusal above is of the subject, not of everything."""
    everywhere(Leaking(["somebody else"]), model, trained_run, studies, tmp_path)[name]()
    assert list(tmp_path.iterdir())


def test_folds_answer_for_whom_they_held_back():
    member = SimpleNamespace(training={"held_out": ["a"]}, sequences=("t1",), regions="wt", hash="x")
    a, b = SimpleNamespace(subject="a"), SimpleNamespace(subject="b")
    assert require_unseen({"plain": CrossFitted((member,))}, [a]) == []
    with pytest.raises(ValueError, match="not held back by exactly one fold: b"):
        require_unseen({"plain": CrossFitted((member,))}, [a, b])


def test_who_does_not_say_whom_he_saw_is_named(studies):
    silent = Leaking([])
    assert require_unseen({"plain": silent, "other": Leaking(["x"])}, studies) == ["plain"]


# ---------------------------------------------------------------- checks come before completion


def test_scans_are_checked_after_preparing_and_before_completing(monkeypatch, tmp_path, model):
    """Seen by the order of calls; what the checks find is there when the first study is completed."""
    order = []
    report = SimpleNamespace(failed={"b": "unreadable"}, findings={"a": []})
    monkeypatch.setattr(prepared, "load_checker", lambda path: order.append(path.name))
    monkeypatch.setattr(
        prepared, "prepare_cohort", lambda *a, **k: order.append("prepare") or PrepareReport({"a": None})
    )
    monkeypatch.setattr(prepared, "check_cohort", lambda *a, **k: order.append("check") or report)
    monkeypatch.setattr(scans, "complete", lambda *a, **k: order.append("complete") or CompletionReport())
    done = scans.complete_scans(tmp_path, tmp_path / "out", model, center="A")
    assert order == [machine.BUNDLED_CHECKS, "prepare", "check", "complete"]
    assert done.checked is report
    assert done.failed == {"b": "unreadable"}


def test_without_checks_nothing_is_even_prepared(monkeypatch, tmp_path, model):
    monkeypatch.setattr(machine, "bundled_file", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"No file of checks is given: --checks\. Found no bundled"):
        scans.complete_scans(tmp_path, tmp_path / "out", model, center="A")
    assert not (tmp_path / "out").exists()


def test_preparing_from_python_ends_with_checks(phantom, tmp_path, cohort):
    settings = PrepareSettings(centers=phantom / "centers.csv")
    report, checked = prepared.prepare_and_check(phantom / "studies", tmp_path / "cohort", settings)
    assert set(checked.findings) == set(report.done)
    assert checked.page.is_file()
    prepare_cohort(phantom / "studies", tmp_path / "plain", settings)
    alone = check_cohort(tmp_path / "plain", prepared.checker_of(None))
    assert alone.findings == checked.findings


# ---------------------------------------------------------------- what comes with the package


def test_what_is_given_goes_before_what_is_bundled(tmp_path, monkeypatch):
    assert machine.given_or_bundled(tmp_path / "mine", machine.BUNDLED_MODEL) == tmp_path / "mine"
    assert machine.given_or_bundled(None, machine.BUNDLED_MODEL).name == machine.BUNDLED_MODEL
    assert machine.given_or_bundled("fine_unpaired", machine.BUNDLED_MODEL) == machine.bundled_file(
        "fine_unpaired.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fine_unpaired").touch()
    assert machine.given_or_bundled("fine_unpaired", machine.BUNDLED_MODEL) == Path("fine_unpaired")  # a file of theirs
    assert machine.given_or_bundled("unheard_of", machine.BUNDLED_MODEL) == Path("unheard_of")
    monkeypatch.setattr(machine, "bundled_file", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"No segmenter is given: --segmenter\. Found no bundled segmenter_t2"):
        machine.given_or_bundled(None, machine.BUNDLED_T2)
