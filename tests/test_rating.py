"""A blinded reading from the choice of images to the agreement of readers."""

import base64
import csv
import io
import json
import re
import struct
from collections import Counter
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from ummgat.cli import app
from ummgat.core.domain import Domain
from ummgat.core.png import as_png
from ummgat.model.weights import load_model
from ummgat.rate import make as rating
from ummgat.rate.make import cut, enlarged, plan, select_images
from ummgat.rate.page import rate_page
from ummgat.rate.score import ANSWER_COLUMNS, agreement_rows, check_readers, read_answers, read_key, reader_rows


@pytest.fixture(scope="module")
def model(model_path):
    return load_model(model_path)


@pytest.fixture(scope="module")
def whole(cohort_studies):
    """Subjects of center A with several sequences that the model knows."""
    return [s for s in cohort_studies if len(s.acquired) > 1 and s.center == "A"]


@pytest.fixture(scope="module")
def chosen(model, whole):
    return select_images(model, whole, 6, seed=1)


def pixels(png):
    return np.rint(matplotlib.image.imread(io.BytesIO(png), format="png") * 255).astype(np.uint8)


# ---------------------------------------------------------------- who is shown

CHOICES = {f"a{i}": ["t1", "t2", "flair"] for i in range(4)} | {f"b{i}": ["t1", "t2"] for i in range(3)}
CENTERS = {s: s[0].upper() for s in CHOICES}
PLANES = {s: list(range(20, 60)) for s in CHOICES}


def test_neither_sequence_nor_center_hints_at_the_answer():
    slots = plan(CHOICES, CENTERS, PLANES, 36, seed=3)
    counts = Counter((s.sequence, CENTERS[s.subject], s.is_real) for s in slots)
    for (sequence, center, _), n in counts.items():
        assert counts[sequence, center, True] == counts[sequence, center, False] == n
    assert Counter(s.sequence for s in slots) == {"t1": 12, "t2": 12, "flair": 12}
    assert all(s.sequence in CHOICES[s.subject] for s in slots)
    per_subject = Counter(s.subject for s in slots if s.subject[0] == "a")
    assert max(per_subject.values()) - min(per_subject.values()) <= 1


def test_no_plane_is_shown_twice_and_planes_lie_apart():
    slots = plan(CHOICES, CENTERS, PLANES, 36, seed=0)
    assert len({(s.subject, s.plane) for s in slots}) == 36
    for subject in CHOICES:
        own = sorted(s.plane for s in slots if s.subject == subject)
        assert np.diff(own).min() >= len(PLANES[subject]) // len(own)


def test_order_follows_the_seed_and_is_no_pattern():
    slots = plan(CHOICES, CENTERS, PLANES, 36, seed=0)
    assert slots == plan(CHOICES, CENTERS, PLANES, 36, seed=0)
    assert slots != plan(CHOICES, CENTERS, PLANES, 36, seed=1)
    subjects = [s.subject for s in slots]
    assert sum(a == b for a, b in pairwise(subjects)) < 12  # in blocks by subject it would be 29
    truths = [[s.is_real for s in plan(CHOICES, CENTERS, PLANES, 36, seed=i)] for i in range(200)]
    assert np.abs(np.mean(truths, axis=0) - 0.5).max() < 0.15  # no place on the page tells


@pytest.mark.parametrize("n", [0, 7, -2])
def test_what_cannot_be_halved_is_refused(n):
    with pytest.raises(ValueError, match="cannot be halved"):
        plan(CHOICES, CENTERS, PLANES, n, 0)


def test_too_little_to_show_is_refused():
    with pytest.raises(ValueError, match="too few planes: a0"):
        plan({"a0": ["t1"]}, {"a0": "A"}, {"a0": [1, 2, 3]}, 4, 0)
    with pytest.raises(ValueError, match="both shown and generated"):
        plan({}, {}, {}, 4, 0)


# ---------------------------------------------------------------- how it is shown


def test_images_are_what_the_key_says(chosen, whole):
    assert Counter(row["truth"] for row in chosen.key) == {"real": 3, "generated": 3}
    by_subject = {s.subject: s for s in whole}
    assert len({pixels(png).shape for png in chosen.images}) == 1
    for png, row in zip(chosen.images, chosen.key, strict=True):
        study, plane = by_subject[row["subject"]], int(row["plane"])
        if row["truth"] == "generated":
            assert Domain.parse(row["source"]).sequence in study.acquired
            assert Domain.parse(row["source"]).sequence != row["sequence"]
            continue
        assert row["source"] == ""
        rows, columns = (np.flatnonzero((np.asarray(study.volume(row["sequence"])) > 0).any((0, k))) for k in (2, 1))
        true = np.asarray(study.volume(row["sequence"])[plane])[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shown, factor = pixels(png), round(rating.SIDE / 25)
        # As many bright pixels as the true plane has, times the enlargement; edges blur a little.
        assert shown.astype(float).sum() == pytest.approx(true.astype(float).sum() * factor**2, rel=0.05)


def test_a_perfect_translation_gives_byte_identical_images(model, whole, monkeypatch):
    """Real and generated go through the same lines: were the generator perfect, nobody could tell, not even by the
    bytes.
    """
    made = {}

    def perfect(model, study, others, target, asked):
        made[study.subject, target] = True
        return np.asarray(study.volume(target)), "A/t1"

    monkeypatch.setattr(rating, "_generated", perfect)
    first = select_images(model, whole, 6, seed=1)
    real_plan = rating.plan
    monkeypatch.setattr(rating, "plan", lambda *a: [s._replace(is_real=not s.is_real) for s in real_plan(*a)])
    turned = select_images(model, whole, 6, seed=1)
    assert made
    assert first.images == turned.images
    assert [r["truth"] for r in first.key] != [r["truth"] for r in turned.key]


def test_sources_follow_the_option(model, whole, monkeypatch):
    asked = []

    def record(model, study, others, target, name):
        asked.append((name, tuple(others), target))
        return np.asarray(study.volume(target)), name

    monkeypatch.setattr(rating, "_generated", record)
    select_images(model, whole, 12, 0, "each")
    assert all(name in others and target not in others for name, others, target in asked)
    assert len({(name, target) for name, _, target in asked}) > 3
    asked.clear()
    select_images(model, whole, 12, 0, "fuse")
    assert {name for name, _, _ in asked} == {"fuse"}


def test_fused_images_name_all_sources(model, whole):
    found = select_images(model, whole, 2, 0, "fuse")
    (row,) = [r for r in found.key if r["truth"] == "generated"]
    assert row["source"].count("+") == 1  # three sequences are known at A, two remain


def test_cut_leaves_background_outside_the_brain_and_turns_the_front_up():
    plane = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    brain = np.ones((3, 4), bool)
    brain[0, 0] = False
    found = cut(plane, brain, (0, 0), (3, 4))
    np.testing.assert_array_equal(found, [[9, 10, 11, 12], [5, 6, 7, 8], [0, 2, 3, 4]])


def test_enlarging_keeps_pixels_at_their_centers():
    image = np.array([[0, 90], [30, 255]], np.uint8)
    found = enlarged(image, 3)
    assert found.shape == (6, 6)
    np.testing.assert_array_equal(found[1::3, 1::3], image)
    assert enlarged(image, 1) is image


def test_png_holds_pixels_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    data = as_png(image)
    np.testing.assert_array_equal(pixels(data), image)
    names, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        names.append(data[at + 4 : at + 8])
        at += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]


# ---------------------------------------------------------------- the page


def test_the_page_tells_nothing_and_asks_no_network(chosen):
    html = rate_page(chosen.images)
    without = re.sub(r"base64,[^\"]+", "base64,", html)
    assert not re.search(r"https?:|//[a-z]|(?:src|href)=\"(?!data:)|@import|url\(|fetch\(|XMLHttpRequest", without)
    assert "default-src 'none'" in html
    for row in chosen.key:
        for secret in (row["subject"], row["source"], f"{row['center']}/{row['sequence']}"):
            assert not secret or secret not in without
    assert not re.search(r"\b(t1|t1ce|t2|flair|Phantom|seed|key\.csv)\b", without, re.IGNORECASE)
    assert "Some of them are generated" in html
    tags = re.findall(r"<img [^>]*>", without)
    assert len({re.sub(r"\d+", "#", tag) for tag in tags}) == 1  # nothing but the number tells them apart


def test_the_page_depends_on_the_images_only(chosen):
    assert rate_page(list(chosen.images)) == rate_page(chosen.images)
    found = re.findall(r"data:image/png;base64,([^\"]+)", rate_page(chosen.images))
    assert [base64.b64decode(data) for data in found] == chosen.images


# ---------------------------------------------------------------- answers

KEY = [
    {
        "page": "p",
        "image": str(i + 1),
        "truth": truth,
        "subject": f"s{i}",
        "center": "A",
        "sequence": q,
        "source": "",
        "plane": "1",
    }
    for i, (truth, q) in enumerate(
        [("real", "t1"), ("generated", "t1"), ("real", "t2"), ("generated", "t2"), ("real", "t1"), ("generated", "t1")]
    )
]


def rows_of(reader="Ann", answers="rgrgrg", qualities="545351"):
    words = {"r": "real", "g": "generated", "": "", "?": "?"}
    return [
        {"page": "p", "reader": reader, "image": str(i + 1), "answer": words[a], "quality": q, "remark": 'a "b", c\nd'}
        for i, (a, q) in enumerate(zip(answers, qualities, strict=True))
    ]


def written(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ANSWER_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_csv_and_json_say_the_same_and_order_does_not_matter(tmp_path):
    rows = rows_of()
    a = read_answers(written(tmp_path / "a.csv", rows[::-1]), KEY)
    answers = [{k: r[k] for k in ("image", "answer", "quality", "remark")} for r in rows]
    value = {"format": "ummgat-answers-1", "page": "p", "reader": "Ann", "answers": answers}
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    b = read_answers(tmp_path / "a.json", KEY)
    assert a.reader == b.reader == "Ann"
    np.testing.assert_array_equal(a.said_generated, b.said_generated)
    np.testing.assert_array_equal(a.quality, b.quality)
    assert a.remarks == b.remarks == ['a "b", c\nd'] * 6


def test_all_problems_of_a_file_are_named_at_once(tmp_path):
    rows = rows_of(answers="rg?grg", qualities="5453 1")
    rows[5]["image"] = "1"
    rows.append(rows[1] | {"image": "99", "page": "other"})
    with pytest.raises(ValueError, match="Answers do not fit") as caught:
        read_answers(written(tmp_path / "a.csv", rows), KEY)
    for part in (
        "answers to page other, p instead of p",
        "unknown images: 99",
        "missing images: 6",
        "answered twice: 1",
        "without real or generated: 3",
        "without a quality from 1 to 5: 5",
    ):
        assert part in str(caught.value)


def test_files_that_are_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="File is missing"):
        read_answers(tmp_path / "none.csv", KEY)
    (tmp_path / "b.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="File has other columns"):
        read_answers(tmp_path / "b.csv", KEY)
    (tmp_path / "c.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="not an answer file"):
        read_answers(tmp_path / "c.json", KEY)
    with pytest.raises(ValueError, match="reader \\[''\\] instead of one name"):
        read_answers(written(tmp_path / "d.csv", rows_of(reader=" ")), KEY)
    (tmp_path / "key.csv").write_text(
        ",".join(KEY[0]) + "\n" + "\n".join(",".join((r | {"truth": "fake"}).values()) for r in KEY), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="Key is damaged"):
        read_key(tmp_path / "key.csv")


def test_readers_of_the_same_name_are_refused(tmp_path):
    paths = [written(tmp_path / f"{n}.csv", rows_of(n)) for n in ("Ann", "ann ")]
    with pytest.raises(ValueError, match="Readers have the same name"):
        check_readers([read_answers(p, KEY) for p in paths], paths)


def reading(tmp_path, **how):
    name = how.get("reader", "Ann")
    return read_answers(written(tmp_path / f"{name}.csv", rows_of(**how)), KEY)


def test_scores_are_those_one_counts_by_hand(tmp_path):
    row, t1, t2 = reader_rows(KEY, [reading(tmp_path, answers="rrrgrg", qualities="535241")])
    assert (row["sequence"], t1["sequence"], t2["sequence"]) == ("all", "t1", "t2")
    assert (row["n"], t1["n"], t2["n"]) == (6, 4, 2)
    assert row["accuracy"] == pytest.approx(5 / 6)
    assert row["sensitivity"] == pytest.approx(2 / 3)  # of images 2, 4, 6 the last two
    assert row["specificity"] == 1.0
    assert row["p_guessing"] == pytest.approx(14 / 64)
    assert (t1["accuracy"], t2["accuracy"]) == (0.75, 1.0)
    assert (row["quality_real"], row["quality_generated"]) == (5.0, 2.0)
    assert row["real_rated_higher"] == 1.0


def test_agreement_depends_on_how_many_read(tmp_path):
    ann, bob, eve = (
        reading(tmp_path, reader=n, answers=a, qualities=q)
        for n, a, q in (("Ann", "rgrgrg", "545351"), ("Bob", "rgrggr", "445352"), ("Eve", "grrgrg", "341351"))
    )
    one, two, three = (agreement_rows(KEY, readers) for readers in ([ann], [ann, bob], [ann, bob, eve]))
    assert [r["statistic"] for r in one] == ["mean accuracy of readers"]
    assert [r["statistic"] for r in two[1:]] == ["Cohen's kappa", "quadratic-weighted kappa", "ICC(2,1)"]
    assert [r["statistic"] for r in three[1:]] == ["Fleiss' kappa", "ICC(2,1)"]
    assert two[1]["value"] == pytest.approx(1 / 3)  # they agree on 4 of 6, half of it by chance
    assert two[0]["value"] == pytest.approx(10 / 12)
    assert all(r["low"] <= r["value"] <= r["high"] for r in (*two, *three))
    assert {r["n_readers"] for r in three} == {3}


# ---------------------------------------------------------------- commands


def test_from_the_cohort_to_the_summary(cohort, model_path, trained_run, tmp_path):
    run, out = CliRunner(), tmp_path / "reading"
    draw = trained_run / "draw.json"
    given = ["rate", "make", str(cohort), str(out), "--draw", str(draw), "--model", str(model_path), "--n", "4"]
    made = run.invoke(app, given)
    assert made.exit_code == 0, made.output
    assert "Do not hand it" in made.stderr
    key = read_key(out / "key.csv")
    tested = json.loads(draw.read_text(encoding="utf-8"))["test"]
    assert {row["subject"] for row in key} <= set(tested)
    page = (out / "rate.html").read_text(encoding="utf-8")
    assert f'data-page="{key[0]["page"]}"' in page
    files = []
    for name in ("Ann", "B|ob<b>[x](http://y.z)"):
        rows = [
            {"page": r["page"], "reader": name, "image": r["image"], "answer": r["truth"], "quality": "3", "remark": ""}
            for r in key
        ]
        files.append(str(written(tmp_path / f"{name[0]}.csv", rows)))
    scored = run.invoke(app, ["rate", "score", str(out / "key.csv"), *files, "--out", str(tmp_path / "scores")])
    assert scored.exit_code == 0, scored.output
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == [
        "agreement.csv",
        "answers.csv",
        "readers.csv",
        "summary.json",
        "summary.md",
    ]
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    values = {r["statistic"]: r["value"] for r in summary["agreement"]}
    assert values["Cohen's kappa"] == 1.0
    assert values["ICC(2,1)"] is None  # all said 3
    text = (tmp_path / "scores" / "summary.md").read_text(encoding="utf-8")
    assert r"| B/ob\<b\>\[x\](http\://y\.z) | 1.00 (0.51 to 1.00) |" in text
    assert "does not exist" in text
    again = run.invoke(app, given)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    twice = run.invoke(app, ["rate", "score", str(out / "key.csv"), files[0], files[0], "--out", str(tmp_path / "x")])
    assert twice.exit_code == 2
    assert "same name" in twice.stderr
