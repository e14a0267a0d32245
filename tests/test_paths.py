"""Names out of foreign files lead nowhere but into the folder that they are said to be in, and links are not written
through.
"""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bad_nifti import contents
from test_complete import A
from ummgat.check.cohort import check_cohort
from ummgat.check.prepared import checker_of
from ummgat.completion.cohort import complete
from ummgat.core.draw import Draw
from ummgat.core.files import append_text, exclusive, replaced_folder, write_text
from ummgat.core.paths import inside, is_plain
from ummgat.core.study import load_study
from ummgat.export.cohort import export_bids
from ummgat.intake.names import check_name

ASTRAY = (
    "../victim.nii", "/tmp/victim.nii", "a/../../victim.nii", "..\\victim.nii", "C:victim.nii",
    "\\\\server\\victim.nii",
    "sub/victim.nii", "./victim.nii", ".victim.nii", "..", ".", "", " victim.nii", "victim.nii/", "victim\n.nii",
    "victim\0.nii", "v" * 300 + ".nii", "victim.nii:stream", "~|victim.nii", "victim.nii.",
)  # fmt: skip
"""Names that are no name of one file of this folder on one system or another."""

FIELDS = {
    "subject": lambda record, name: record.update(subject=name),
    "center": lambda record, name: record.update(center=name),
    "labels": lambda record, name: record.update(labels_file=name),
    "mask": lambda record, name: record.update(brain_mask_file=name),
    "image": lambda record, name: record["images"]["t1"].update(file=name),
}
"""Every field of a study's record that becomes a path."""


@pytest.fixture
def study(cohort, tmp_path):
    """A copy of a prepared study that may be spoilt, in a cohort of its own."""
    return shutil.copytree(cohort / A, tmp_path / "cohort" / A)


def spoilt(study, change):
    """The study after `change` of its record."""
    record = json.loads((study / "study.json").read_text(encoding="utf-8"))
    change(record)
    (study / "study.json").write_text(json.dumps(record), encoding="utf-8")
    return study


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", ASTRAY)
def test_a_record_with_a_name_that_leads_away_is_refused(study, field, name):
    with pytest.raises(ValueError, match=r"Study record is not valid: .*study\.json"):
        load_study(spoilt(study, lambda record: FIELDS[field](record, name)))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_outside_the_output_is_touched(study, model, tmp_path, field, overwrite):
    """The attack as it was found: a foreign record, completed with or without --overwrite."""
    victims = tmp_path / "home" / "victims"
    victims.mkdir(parents=True)
    (victims / "thesis.nii").write_bytes(b"the only copy")
    before = contents(tmp_path / "home")
    target = victims if field in ("subject", "center") else victims / "thesis.nii"
    for name in (f"../home/victims/{'' if target == victims else 'thesis.nii'}".rstrip("/"), str(target)):
        spoilt(study, lambda record, name=name: FIELDS[field](record, name))
        with pytest.raises(ValueError, match="Study record is not valid"):
            complete(study.parent, tmp_path / "out", model, center="A", overwrite=overwrite)
    assert contents(tmp_path / "home") == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(labels_file="t1.nii"),
        lambda record: record.update(labels_file="T1.NII"),
        lambda record: record.update(brain_mask_file=record["labels_file"]),
        lambda record: record["images"].update(t2=record["images"]["t1"]),
        lambda record: record["images"].update({"../t3": record["images"]["t1"]}),
        lambda record: record.update(labels_file="flair_generated.nii"),
        lambda record: record["images"]["t1"].update(file="t2_generated.nii"),
    ],
)
def test_no_file_stands_for_two_things(study, change):
    with pytest.raises(ValueError, match="Study record is not valid"):
        load_study(spoilt(study, change))


def test_what_is_no_volume_of_the_study_is_not_passed_on(study, model, tmp_path):
    secret = tmp_path / "key"
    secret.write_bytes(b"secret")
    (study / "labels.nii").unlink()
    (study / "labels.nii").symlink_to(secret)
    report = complete(study.parent, tmp_path / "out", model, center="A")
    assert "labels.nii" in report.failed[A]
    assert not (tmp_path / "out" / A).exists()


@given(st.text(max_size=130))
def test_a_plain_name_stays_where_it_is(name):
    folder = Path("/data/out")
    if is_plain(name):
        assert inside(folder, name).parent == folder
        assert (folder / name).resolve().parent == folder
        assert check_name(name, "subject", "here") == name
    else:
        with pytest.raises(ValueError, match=r"Output would lie elsewhere: .*data.*out"):
            inside(folder, name)


@pytest.mark.parametrize("there", ["folder", "file", "nothing"])
def test_an_output_that_is_a_link_is_replaced_and_not_followed(tmp_path, there):
    victim = tmp_path / "victim"
    if there == "folder":
        victim.mkdir()
        (victim / "keep.txt").write_text("kept", encoding="utf-8")
    elif there == "file":
        victim.write_text("kept", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    (out / "s").symlink_to(victim)
    before = contents(victim) if there == "folder" else victim.read_bytes() if there == "file" else None
    with replaced_folder(out / "s") as temporary:
        (temporary / "new.txt").write_text("new", encoding="utf-8")
    assert contents(out) == {"s/new.txt": b"new"}
    assert [path.name for path in out.iterdir()] == ["s"]  # nor is the link left under another name
    assert not (out / "s").is_symlink()
    assert (contents(victim) if there == "folder" else victim.read_bytes() if there == "file" else None) == before
    assert victim.exists() == (there != "nothing")


@pytest.mark.parametrize("there", ["file", "nothing"])
def test_a_lock_or_a_log_that_is_a_link_is_refused(tmp_path, there):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    folder.mkdir()
    if there == "file":
        victim.write_text("kept", encoding="utf-8")
    for name in (".lock", "log.jsonl"):
        (folder / name).symlink_to(victim)
    with pytest.raises(ValueError, match=r"Output is a link: .*\.lock"), exclusive(folder):
        pass
    with pytest.raises(ValueError, match=r"Output is a link: .*log\.jsonl"):
        append_text(folder / "log.jsonl", "more\n")
    write_text(folder / "log.jsonl", "new\n")  # whole files take the place of a link
    assert victim.exists() == (there == "file")
    assert there == "nothing" or victim.read_text(encoding="utf-8") == "kept"
    assert not (folder / "log.jsonl").is_symlink()


def test_a_lock_is_never_emptied(tmp_path):
    (tmp_path / ".lock").write_text("somebody's", encoding="utf-8")
    with exclusive(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text(encoding="utf-8") == "somebody's"


def test_checks_are_not_written_through_a_link(study, tmp_path):
    elsewhere = shutil.move(study, tmp_path / "elsewhere")
    record = json.loads((elsewhere / "study.json").read_text(encoding="utf-8"))
    (elsewhere / "study.json").write_text(json.dumps(record | {"checks": None}), encoding="utf-8")
    study.symlink_to(elsewhere)
    before = contents(elsewhere)
    report = check_cohort(study.parent, checker_of(None))
    assert "Found a link" in report.failed[A]
    assert contents(elsewhere) == before


@pytest.mark.parametrize("name", ASTRAY[:6])
def test_export_takes_no_name_out_of_a_record(study, tmp_path, name):
    spoilt(study, lambda record: record.update(subject=name))
    report = export_bids(study.parent, tmp_path / "out")
    assert list(report.failed) == [A]
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == ["cohort"]


@pytest.mark.parametrize("name", ASTRAY[:6])
def test_a_draw_names_subjects_and_no_paths(cohort_studies, name):
    """Whatever a draw says, studies are those of the cohort."""
    draw = Draw(mode="all", seed=0, domains=["A/t1"], train={name: ["t1"]}, selection=[], test=[name + "2"])
    with pytest.raises(ValueError, match="No test subject"):
        draw.studies(cohort_studies, "test", Path("cohort"))
