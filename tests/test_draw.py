import json

import numpy as np
import pytest

from ummgat.core.draw import Draw, load_draw, make_draw
from ummgat.core.files import write_json
from ummgat.core.study import GridRecord, ImageRecord, Study, StudyRecord
from ummgat.core.volume import Grid


def study(subject, center="A", sequences=("t1", "t2"), generated=()):
    grid = GridRecord.of(Grid.of((4, 4, 4), np.eye(4)))
    images = {q: ImageRecord(file=f"{q}.nii") for q in sequences}
    images |= {q: ImageRecord(file=f"{q}.nii", kind="generated") for q in generated}
    record = StudyRecord(subject=subject, center=center, grid=grid, original_grid=grid, images=images, brain_voxels=1)
    return Study(folder=None, record=record)


@pytest.fixture
def studies():
    """20 subjects of A with four sequences, 10 of B with two."""
    a = [study(f"a{i:02}", "A", ("t1", "t1ce", "t2", "flair")) for i in range(20)]
    return a + [study(f"b{i:02}", "B") for i in range(10)]


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "split.json"
    write_json(
        path,
        {
            "train": ["a00", "a01", "b00", "b01"],
            "selection": ["a02"],
            "test": ["a03", "b02"],
            "one_sequence_per_patient": {"a00": "t1", "a01": "t2", "b00": "t1", "b01": "t2"},
        },
    )
    return path


def test_strict_takes_the_given_draw_to_the_letter(studies, split):
    draw = make_draw(studies, "strict", 3, domains=["A/t1", "A/t2", "B/t1", "B/t2"], split_file=split)
    assert draw.train == {"a00": ["t1"], "a01": ["t2"], "b00": ["t1"], "b01": ["t2"]}
    assert (draw.selection, draw.test) == (["a02"], ["a03", "b02"])
    assert draw.seed is None  # nothing was random


def test_strict_without_a_given_draw_is_balanced_and_reproducible(studies):
    draw = make_draw(studies, "strict", 0)
    assert all(len(sequences) == 1 for sequences in draw.train.values())
    for center, n in (("a", 4), ("b", 2)):
        chosen = [q[0] for s, q in draw.train.items() if s.startswith(center)]
        counts = [chosen.count(q) for q in set(chosen)]
        assert len(counts) == n
        assert max(counts) - min(counts) <= 1
    assert make_draw(studies, "strict", 0) == draw
    assert make_draw(studies, "strict", 1) != draw


def test_parts_are_disjoint_and_every_center_is_in_each(studies):
    draw = make_draw(studies, "all", 0, fractions=(0.1, 0.2))
    parts = [set(draw.train), set(draw.selection), set(draw.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert [len(part) for part in parts] == [21, 3, 6]
    assert all({s[0] for s in part} == {"a", "b"} for part in parts)


def test_all_mode_takes_whatever_a_patient_has_of_the_domains(studies, split):
    draw = make_draw(studies, "all", 0, domains=["B/t2", "A/flair"], split_file=split)
    assert draw.domains == ["B/t2", "A/flair"]  # the order given, not a sorted one
    assert draw.train == {"a00": ["flair"], "a01": ["flair"], "b00": ["t2"], "b01": ["t2"]}


def test_domains_come_in_a_fixed_order_whatever_the_order_of_the_studies(studies):
    names = ["A/t1", "A/t1ce", "A/t2", "A/flair", "B/t1", "B/t2"]
    assert make_draw(studies, "all", 0).domains == names
    assert make_draw(studies[::-1], "all", 0).domains == names


def test_generated_images_never_train():
    draw = make_draw([study(f"s{i}", generated=("flair",)) for i in range(8)], "all", 0)
    assert draw.domains == ["A/t1", "A/t2"]
    assert all(sequences == ["t1", "t2"] for sequences in draw.train.values())


def test_unknown_subject_in_the_split_is_named(studies, split):
    value = json.loads(split.read_text(encoding="utf-8"))
    write_json(split, {**value, "test": ["zz9"]})
    with pytest.raises(ValueError, match=r"cohort lacks: .*split\.json\. Found zz9"):
        make_draw(studies, "all", 0, split_file=split)


def test_given_sequence_that_the_subject_lacks_is_named(studies, split):
    value = json.loads(split.read_text(encoding="utf-8"))
    write_json(split, {**value, "one_sequence_per_patient": {"b00": "flair"}})
    with pytest.raises(ValueError, match=r"b00\. Found flair"):
        make_draw(studies, "strict", 0, split_file=split)


def test_domain_without_training_volume_is_an_error(studies, split):
    with pytest.raises(ValueError, match="Found none for B/flair"):
        make_draw(studies, "all", 0, domains=["A/t1", "B/flair"], split_file=split)


def test_subject_in_two_parts_is_refused(studies, split):
    value = json.loads(split.read_text(encoding="utf-8"))
    write_json(split, {**value, "test": ["a00"]})
    with pytest.raises(ValueError, match="more than one part: a00"):
        make_draw(studies, "all", 0, split_file=split)


def test_draw_file_round_trip_and_refusals(studies, tmp_path):
    draw = make_draw(studies, "strict", 0)
    path = tmp_path / "draw.json"
    write_json(path, draw.model_dump(mode="json"))
    assert load_draw(path) == draw
    assert load_draw(path).table.index(draw.table.domains[1]) == 1
    write_json(path, {**draw.model_dump(mode="json"), "train": {"a00": ["t1", "t2"]}})
    with pytest.raises(ValueError, match=r"(?s)draw\.json.*exactly one sequence"):
        load_draw(path)
    with pytest.raises(FileNotFoundError):
        load_draw(tmp_path / "none.json")


def test_strict_draw_file_must_not_repeat_a_subject():
    with pytest.raises(ValueError, match="more than one part"):
        Draw(mode="strict", seed=0, domains=["A/t1"], train={"s": ["t1"]}, selection=["s"], test=[])
