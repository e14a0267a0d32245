"""The evaluation itself, on the phantom's known truth, with segmenters whose answers one knows."""

import re

import numpy as np
import pytest
from scipy import ndimage

from ummgat.completion.fill import Request
from ummgat.core.domain import Domain
from ummgat.core.metrics import dice, hd95
from ummgat.core.study import Study
from ummgat.evaluate import segmentation
from ummgat.evaluate.lesion_wise import PENALTY_MM, lesion_wise
from ummgat.evaluate.results import COLUMNS, read_results
from ummgat.evaluate.scenarios import METHODS, Scenario, Substitute
from ummgat.evaluate.segmentation import Substitutes, correlations, evaluate

SEQUENCES = ("t1", "t1ce", "t2")
"""What the miniature model knows of center A."""


class Oracle:
    """Answers with the true labels where it is given exactly the true images, and nothing elsewhere."""

    sequences = SEQUENCES
    regions = "multi"

    def __init__(self, studies, blank=()):
        self.known = [({q: np.asarray(s.volume(q)) for q in SEQUENCES}, np.asarray(s.labels())) for s in studies]
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        for true, labels in self.known:
            if all(np.array_equal(true[q], images[q]) for q in SEQUENCES):
                return labels
        return np.zeros_like(images["t1"])


def run(out, model, studies, segmenter, **changes):
    report = evaluate({"plain": segmenter}, model, studies, out, {}, {"model": "x"}, **changes)
    return report, read_results(out / "results.csv") if (out / "results.csv").is_file() else []


# ---------------------------------------------------------------- overlap


def test_dice_by_hand():
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1
    assert dice(a, ~a) == dice(a, np.zeros(4, bool)) == 0
    assert dice(np.zeros(4, bool), np.zeros(4, bool)) == 1


def test_a_false_piece_far_away_is_not_drowned_by_a_perfect_tumour():
    """1,000 voxels found exactly and a false piece of 27 forty voxels on: the way from what was found tells, not both
    pooled.
    """
    truth = np.zeros((12, 12, 60), bool)
    truth[1:11, 1:11, 1:11] = True
    found = truth.copy()
    found[5:8, 5:8, 50:53] = True
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (found, truth)]
    there = ndimage.distance_transform_edt(~edges[1])[edges[0]]
    assert hd95(found, truth, (1, 1, 1)) == pytest.approx(np.percentile(there, 95))
    assert hd95(found, truth, (1, 1, 1)) > 5
    scores = lesion_wise(found, truth, (1, 1, 1))
    assert scores == (0.5, PENALTY_MM / 2, 1, 0, 1)


def test_lesion_wise_scores_by_hand():
    """One found whole, one by half, one missed, one too small to be asked for, and an answer to it that is not held
    against.
    """
    truth, found = np.zeros((2, 10, 10, 100), bool)
    for start in (2, 22, 42):
        truth[2:8, 2:8, start : start + 6] = True
    found[2:8, 2:8, 2:8] = True
    found[2:8, 2:8, 22:25] = True
    truth[4, 4, 80:84] = found[4, 4, 80:90] = True
    scores = lesion_wise(found, truth, (1, 1, 1))
    assert scores.dice == pytest.approx((1 + 2 * 108 / (108 + 216) + 0) / 3)
    assert (scores.n_true, scores.n_missed, scores.n_false) == (3, 1, 0)
    half = hd95(
        found & (np.arange(100) < 40) & (np.arange(100) > 20),
        truth & (np.arange(100) < 40) & (np.arange(100) > 20),
        (1, 1, 1),
    )
    assert scores.hd95_mm == pytest.approx((0 + half + PENALTY_MM) / 3)


def test_pieces_of_one_lesion_are_one_and_nothing_in_nothing_is_perfect():
    """Two pieces four voxels apart are within reach of each other; eleven apart they are two lesions."""
    nothing = np.zeros((10, 10, 40), bool)
    for gap, n in ((4, 1), (11, 2)):
        truth = nothing.copy()
        truth[2:8, 2:8, 2:8] = truth[2:8, 2:8, 8 + gap : 14 + gap] = True
        assert lesion_wise(truth, truth, (1, 1, 1)) == (1.0, 0.0, n, 0, 0)
    assert lesion_wise(nothing, nothing, (1, 1, 1)) == (1.0, 0.0, 0, 0, 0)
    assert lesion_wise(nothing, truth, (1, 1, 1)) == (0.0, PENALTY_MM, 2, 2, 0)


def test_hd95_of_shifted_boxes_is_the_shift_in_mm():
    a, b = np.zeros((2, 12, 14, 16), bool)
    a[3:7, 4:8, 2:10], b[3:7, 4:8, 5:13] = True, True
    assert hd95(a, a, (1, 1, 1)) == 0
    assert hd95(a, b, (1, 1, 2)) == pytest.approx(6, abs=0.3)
    assert hd95(a, b, (1, 1, 1)) == hd95(b, a, (1, 1, 1))
    nothing = np.zeros_like(a)
    assert hd95(nothing, nothing, (1, 1, 1)) == 0
    assert np.isnan(hd95(a, nothing, (1, 1, 1)))


# ---------------------------------------------------------------- substitutes


def test_images_of_each_substitute(model, studies):
    study = studies[0]
    images, missing = Substitutes(model, study, SEQUENCES), Scenario.of(("t1ce", "t2"))
    true = {q: np.asarray(study.volume(q)) for q in SEQUENCES}
    empty = images.complete(missing, Substitute("empty"))
    np.testing.assert_array_equal(empty["t1"], true["t1"])
    assert not empty["t1ce"].any()
    assert not empty["t2"].any()
    given = (("t1ce", "t1"), ("t2", "t1"))
    copied = images.complete(missing, Substitute("copy", "single", given))
    np.testing.assert_array_equal(copied["t2"], true["t1"])
    matched = images.complete(missing, Substitute("matched", "single", given))
    assert (matched["t2"] > 0).sum() == (true["t1"] > 0).sum()
    assert not np.array_equal(matched["t2"], matched["t1ce"])
    made = images.complete(missing, Substitute("generate", "single", given))
    assert not any(np.array_equal(made["t2"], other["t2"]) for other in (copied, matched, true))
    whole = images.complete(Scenario.of(()), Substitute("complete"))
    assert all(np.array_equal(whole[q], true[q]) for q in SEQUENCES)


def test_a_translation_sees_only_its_source_and_is_made_once(model, studies, monkeypatch):
    given = []
    original = segmentation.fill

    def spy(model, volumes, center, request):
        given.append((tuple(volumes), request.targets))
        return original(model, volumes, center, request)

    monkeypatch.setattr(segmentation, "fill", spy)
    images = Substitutes(model, studies[0], SEQUENCES)
    for missing in (("t2",), ("t1ce", "t2")):
        scenario = Scenario.of(missing)
        images.complete(scenario, Substitute("generate", "single", tuple((t, "t1") for t in missing)))
    fused = images.complete(Scenario.of(("t2",)), Substitute("fuse"))["t2"]
    assert given == [(("t1",), ("t2",)), (("t1",), ("t1ce",)), (("t1", "t1ce"), ("t2",))]
    request = Request(targets=("t2",), fuse=True, with_reliability=False)
    true = {q: np.asarray(studies[0].volume(q)) for q in ("t1", "t1ce")}
    np.testing.assert_array_equal(fused, original(model, true, "A", request)[0].volume)


# ---------------------------------------------------------------- the whole evaluation


def test_true_images_give_complete_data_dice_and_nothing_else_does(tmp_path, model, studies):
    oracle = Oracle(studies)
    report, rows = run(tmp_path, model, studies, oracle)
    assert list(report.done) == [s.subject for s in studies]
    assert not report.failed
    complete = [r for r in rows if r["method"] == "complete"]
    assert len(complete) == 3 * len(studies)
    assert all(float(r["dice"]) == 1 and float(r["hd95_mm"]) == 0 for r in complete)
    assert {r["scenario"] for r in rows} == {"none", "t1", "t1ce", "t2", "t1+t1ce", "t1+t2", "t1ce+t2", "random"}
    other = [r for r in rows if r["method"] != "complete" and float(r["true_ml"]) > 0]
    assert other
    assert all(float(r["dice"]) == 0 for r in other)
    assert {tuple(r) for r in rows} == {COLUMNS}


def test_true_images_put_in_place_of_generated_ones_reproduce_complete_data_dice(tmp_path, model, studies, monkeypatch):
    """What a perfect generator would score; images of another subject do not."""

    def perfect(self, target, sources):
        return self.true[target]

    monkeypatch.setattr(Substitutes, "_generated", perfect)
    rows = run(tmp_path / "own", model, studies, Oracle(studies))[1]
    assert all(float(r["dice"]) == 1 for r in rows if r["method"] in ("generate", "fuse"))
    shuffled = [np.asarray(s.volume("t2")) for s in reversed(studies)]
    monkeypatch.setattr(Substitutes, "_generated", lambda self, target, sources: shuffled[0])
    rows = run(tmp_path / "other", model, studies[:1], Oracle(studies))[1]
    scored = [r for r in rows if r["method"] == "generate" and float(r["true_ml"]) > 0]
    assert all(float(r["dice"]) == 0 for r in scored)


def test_a_generator_that_blanks_tumours_is_exposed(tmp_path, model, studies, monkeypatch):
    """A segmenter that finds bright t2 loses the lesion exactly where the generated t2 hides it."""

    class Bright:
        sequences, regions = SEQUENCES, "wt"

        def __call__(self, images):
            return np.where(images["t2"] == 255, 2, 0).astype(np.uint8)

    def painted(hide):
        def generated(self, target, sources):
            lesion = np.asarray(self.study_labels) > 0
            return np.where(lesion & (not hide), 255, 100).astype(np.uint8)

        return generated

    study = studies[0]
    monkeypatch.setattr(Substitutes, "study_labels", study.labels(), raising=False)
    scores = {}
    for hide in (False, True):
        monkeypatch.setattr(Substitutes, "_generated", painted(hide))
        rows = run(tmp_path / str(hide), model, [study], Bright(), scenarios=["t2"])[1]
        scores[hide] = {float(r["dice"]) for r in rows if r["method"] == "generate"}
    assert scores == {False: {1.0}, True: {0.0}}


def test_a_killed_run_goes_on_without_redoing_or_losing_a_row(tmp_path, model, studies):
    each = {"methods": [m for m in METHODS if m != "flood"]}  # which is a segmentation of its own only now and then
    whole = run(tmp_path / "whole", model, studies, Oracle(studies), **each)[1]
    out = tmp_path / "killed"
    run(out, model, studies, Oracle(studies), **each)
    lines = (out / "results.csv").read_text().splitlines(keepends=True)
    cut = len(lines) // 2
    cut -= (cut - 1) % 3  # a group is three regions
    (out / "results.csv").write_text(
        "".join(lines[: cut + 2]) + lines[cut + 2][:25]
    )  # one region and a torn line too many
    oracle = Oracle(studies)
    again = run(out, model, studies, oracle, **each)[1]
    assert again == whole
    assert oracle.calls == (len(lines) - cut) // 3
    assert run(out, model, studies, oracle, **each)[1] == whole
    assert oracle.calls == (len(lines) - cut) // 3


def test_rows_written_twice_count_once(tmp_path, model, studies):
    whole = run(tmp_path, model, studies[:1], Oracle(studies))[1]
    with (tmp_path / "results.csv").open("a") as file:
        file.writelines((tmp_path / "results.csv").read_text().splitlines(keepends=True)[4:10])
    oracle = Oracle(studies)
    assert run(tmp_path, model, studies[:1], oracle)[1] == whole
    assert oracle.calls == 0


def test_folder_of_another_evaluation_is_refused(tmp_path, model, studies):
    run(tmp_path, model, studies[:1], Oracle(studies), scenarios=["none"])
    with pytest.raises(
        ValueError, match=r"Folder belongs to another evaluation: .*Found other model; expected the same"
    ):
        evaluate({"plain": Oracle(studies)}, model, studies, tmp_path, {}, {"model": "y"})
    with pytest.raises(ValueError, match=r"Found other seed"):
        run(tmp_path, model, studies, Oracle(studies), seed=1)


def test_other_subjects_go_on_when_one_fails(tmp_path, model, studies):
    class Moody(Oracle):
        def __call__(self, images):
            if np.array_equal(images["t1"], self.known[0][0]["t1"]):
                raise RuntimeError("out of order")
            return super().__call__(images)

    report, rows = run(tmp_path, model, studies, Moody(studies), scenarios=["none"])
    assert list(report.failed) == [studies[0].subject]
    assert "RuntimeError: out of order" in report.failed[studies[0].subject]
    assert list(report.done) == [studies[1].subject]
    assert {r["subject"] for r in rows} == {studies[1].subject}


def test_labels_on_another_grid_and_missing_labels_are_clear_errors(tmp_path, model, studies):
    class Cropped(Oracle):
        def __call__(self, images):
            return np.zeros((2, 2, 2), np.uint8)

    report, _ = run(tmp_path / "a", model, studies[:1], Cropped(studies))
    assert "Segmenter answers on another grid: plain. Found shape (2, 2, 2)" in report.failed[studies[0].subject]
    bare = Study(studies[0].folder, studies[0].record.model_copy(update={"labels_file": None}))
    report, _ = run(tmp_path / "b", model, [bare], Oracle(studies))
    assert "Labels are missing" in report.failed[bare.subject]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda t1: np.full_like(t1, 4), r"Found uint8 4; expected whole numbers out of 0, 1, 2, 3"),
        (lambda t1: np.full(t1.shape, -1), r"Found int64 -1; expected"),
        (lambda t1: np.zeros(t1.shape, np.float32), r"Found float32 ; expected"),
        (lambda t1: None, r"Segmenter answers on another grid: plain. Found shape \(\)"),
    ],
    ids=["BraTS number of ET", "negative", "not whole", "nothing"],
)
def test_an_answer_that_is_no_labels_fails_its_subject_only(tmp_path, model, studies, answer, message):
    class Odd(Oracle):
        def __call__(self, images):
            mine = np.array_equal(images["t1"], self.known[0][0]["t1"])
            return answer(images["t1"]) if mine else super().__call__(images)

    report, rows = run(tmp_path, model, studies, Odd(studies), scenarios=["none"])
    assert list(report.done) == [studies[1].subject]
    assert re.search(message, report.failed[studies[0].subject])
    assert {r["subject"] for r in rows} == {studies[1].subject}


def test_other_segmenters_get_the_available_images_alone_and_what_complete_would_make(tmp_path, model, studies):
    oracle = Oracle(studies)
    evaluate({"dropout": oracle}, model, studies[:1], tmp_path, {}, {}, scenarios=["none", "t2"])
    rows = read_results(tmp_path / "results.csv")
    assert {(r["method"], r["rule"]) for r in rows} <= {
        ("complete", ""), ("empty", ""), ("fuse", ""), ("generate", "criteria"), ("generate", "single")
    }  # fmt: skip
    assert {r["method"] for r in rows} >= {"complete", "empty", "generate"}
    assert not [r for r in rows if r["method"] in ("copy", "matched")]


def test_methods_restrict_what_is_tried_and_flood_costs_nothing_beside_copies(tmp_path, model, studies):
    oracle = Oracle(studies)
    _, rows = run(tmp_path / "a", model, studies[:1], oracle, scenarios=["t1ce"], methods=["copy", "flood"])
    tried = {(r["method"], r["source"]) for r in rows}
    assert {method for method, _ in tried} == {"copy", "flood"}
    assert oracle.calls == len(tried) - 1
    _, whole = run(tmp_path / "b", model, studies[:1], Oracle(studies), scenarios=["t1ce"])
    assert [r for r in whole if r["method"] in ("copy", "flood")] == rows
    _, alone = run(tmp_path / "c", model, studies[:1], Oracle(studies), scenarios=["t1ce"], methods=["flood"])
    assert alone == [r for r in rows if r["method"] == "flood"]
    for wrong in (["copied"], []):
        with pytest.raises(ValueError, match=r"Unknown method: --methods.*expected some of complete, empty"):
            run(tmp_path / "d", model, studies[:1], oracle, methods=wrong)
    assert not (tmp_path / "d").exists()


def test_correlation_is_the_median_over_subjects_and_symmetric(studies):
    found = correlations(studies, SEQUENCES)
    by_hand = []
    for study in studies:
        a, b = (np.asarray(study.volume(q)) for q in ("t1", "t2"))
        both = (a > 0) & (b > 0)
        by_hand.append(np.corrcoef(a[both], b[both])[0, 1])
    assert found["t1", "t2"] == found["t2", "t1"] == pytest.approx(np.median(by_hand))
    assert len(found) == 6


def test_results_of_another_kind_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"Not a results file: .*Found columns a, b"):
        read_results(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match="Results are missing"):
        read_results(tmp_path / "y.csv")


def test_centers_that_the_model_does_not_know_have_nothing_generated(model, studies):
    elsewhere = Study(studies[0].folder, studies[0].record.model_copy(update={"center": "C"}))
    assert Substitutes(model, elsewhere, SEQUENCES).can_generate == []
    assert Domain("A", "t1") in model.table
