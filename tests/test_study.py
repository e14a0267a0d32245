import json

import numpy as np
import pytest

from ummgat.core.study import GridRecord, ImageRecord, StudyRecord, load_cohort, load_study, write_study
from ummgat.core.volume import Grid


@pytest.fixture
def folder(tmp_path):
    """One study with shape (plane, row, column) = (3, 4, 5)."""
    grid = Grid.of((5, 4, 3), np.diag([2.0, 2, 2, 1]))
    record = StudyRecord(
        subject="s",
        center="A",
        grid=GridRecord.of(grid),
        original_grid=GridRecord.of(grid),
        images={"t1": ImageRecord(file="t1.nii"), "t2": ImageRecord(file="t2.nii", kind="generated")},
        labels_file="labels.nii",
        brain_voxels=60,
    )
    volume = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    write_study(tmp_path / "s", record, {"t1": volume, "t2": volume[::-1]}, (volume == 7).astype(np.uint8))
    return tmp_path / "s"


def test_reads_back_what_was_written(folder):
    study = load_study(folder)
    assert study.shape == (3, 4, 5)
    assert study.volume("t1")[1, 2, 3] == 1 * 20 + 2 * 5 + 3
    assert study.sequences == ["t1", "t2"]
    assert study.acquired == ["t1"]
    assert np.argwhere(study.lesion()).tolist() == [[0, 1, 2]]
    assert study.grid.spacing_mm == (2, 2, 2)


def test_volume_is_a_read_only_memory_map(folder):
    volume = load_study(folder).volume("t1")
    assert isinstance(volume.base, np.memmap)
    assert volume[1].flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        volume[0, 0, 0] = 1


def test_missing_sequence_lists_the_present_ones(folder):
    with pytest.raises(ValueError, match=r"flair of subject s\. Found t1, t2"):
        load_study(folder).volume("flair")


def test_no_annotation_is_not_an_empty_one(folder):
    record = load_study(folder).record.model_copy(update={"labels_file": None})
    study = write_study(folder.parent / "bare", record, {}, None)
    assert study.labels() is None
    assert study.lesion() is None


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (lambda f: (f / "t1.nii").unlink(), FileNotFoundError, "Study is incomplete"),
        (lambda f: (f / "t1.nii").write_bytes(b"junk"), ValueError, "Prepared file is damaged"),
        (
            lambda f: (f / "t1.nii").write_bytes((f / "t1.nii").read_bytes()[:370]),
            ValueError,
            "Prepared file is damaged",
        ),
    ],
)
def test_damaged_volume_is_named(folder, harm, error, says):
    harm(folder)
    with pytest.raises(error, match=says) as caught:
        load_study(folder).volume("t1")
    assert "t1.nii" in str(caught.value)


def test_record_with_unknown_field_or_broken_json_is_refused(folder):
    path = folder / "study.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**value, "suject": "x"}), encoding="utf-8")
    with pytest.raises(ValueError, match="suject"):
        load_study(folder)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not valid JSON: .*study\.json"):
        load_study(folder)


def test_record_without_the_optional_fields_still_loads(folder):
    path = folder / "study.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({k: v for k, v in value.items() if k not in ("fingerprint", "findings")}), encoding="utf-8"
    )
    assert load_study(folder).record.findings == []


def test_cohort_is_sorted_and_skips_unfinished_folders(folder):
    (folder.parent / "a").mkdir()
    (folder.parent / ".tmp-ummgat-x").mkdir()
    for name in ("a", ".tmp-ummgat-x"):
        (folder.parent / name / "study.json").write_text((folder / "study.json").read_text(encoding="utf-8"))
    assert [study.folder.name for study in load_cohort(folder.parent)] == ["a", "s"]


def test_empty_cohort_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="Run `ummgat prepare`"):
        load_cohort(tmp_path)
