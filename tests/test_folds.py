"""Cross-fitting: every subject is segmented by a network that never saw it."""

import numpy as np
import pytest

from ummgat.evaluate.results import read_results
from ummgat.evaluate.segmentation import evaluate
from ummgat.model.weights import load_model
from ummgat.segment.folds import CrossFitted, folds_of, load_folds
from ummgat.segment.load import kind_of
from ummgat.segment.train import train_folds
from ummgat.segment.unet import SegmenterConfig

CONFIG = SegmenterConfig(
    sequences=("t1", "t2"), spacing_mm=1, crop=(1, 32, 32), widths=(4, 4, 4, 4, 4), batch=1, iterations=1
)


@pytest.fixture(scope="module")
def studies(cohort_studies):
    found = [s for s in cohort_studies if {"t1", "t2"} <= set(s.acquired) and s.labels() is not None]
    return [s for s in found if s.center == "A"][:3]


@pytest.fixture(scope="module")
def folder(studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds")
    held_back = train_folds(CONFIG, studies, 2, out)
    assert set(held_back) == {s.subject for s in studies}
    return out


def test_folds_share_nobody_and_do_not_depend_on_the_order():
    names = [f"s{i}" for i in range(11)]
    parts = folds_of(names, 3, seed=1)
    assert sorted(s for part in parts for s in part) == sorted(names)
    assert {len(part) for part in parts} == {3, 4}
    assert folds_of(names[::-1], 3, seed=1) == parts
    assert folds_of(names, 3, seed=2) != parts
    for n in (1, 12):
        with pytest.raises(ValueError, match=f"Found {n} folds of 11"):
            folds_of(names, n, 0)


def test_each_subject_gets_the_network_that_never_saw_it(folder, studies):
    found = load_folds(folder)
    assert kind_of(folder) == "folds"
    for study in studies:
        own = found.of(study.subject)
        assert study.subject in own.training["held_out"]
        assert study.subject not in own.training["subjects"]
    with pytest.raises(ValueError, match=r"nobody_.*Found 0 folds"):
        found.of("nobody_")


def test_a_missing_fold_is_noticed(folder, tmp_path):
    (tmp_path / "fold1").symlink_to(folder / "fold1")
    with pytest.raises(ValueError, match=r"Folds do not belong together.*Found 1 files; expected 2"):
        load_folds(tmp_path)
    with pytest.raises(FileNotFoundError, match="Segmenter is missing"):
        load_folds(tmp_path / "nothing")


def test_evaluation_asks_the_right_fold(folder, studies, model_path, tmp_path, monkeypatch):
    asked = []

    class Spy:
        sequences, regions = ("t1", "t2"), "multi"

        def __init__(self, member):
            self.training = member.training

        def __call__(self, images):
            asked.append(self.training["held_out"])
            return np.zeros_like(images["t1"])

    spies = CrossFitted(tuple(Spy(m) for m in load_folds(folder).members))
    report = evaluate({"plain": spies}, load_model(model_path), studies, tmp_path, {}, {}, scenarios=["none"])
    assert not report.failed
    subjects = [r["subject"] for r in read_results(tmp_path / "results.csv") if r["region"] == "WT"]
    assert all(subject in held for subject, held in zip(subjects, asked, strict=True))
    assert len(subjects) == len(studies)
