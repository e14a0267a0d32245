"""A generated image never takes the place of an acquired one that was not understood."""

import json
import shutil

import pytest

from bad_nifti import brain, contents, save
from test_complete import A, some_of
from ummgat.completion.cohort import complete
from ummgat.core.domain import SEQUENCES
from ummgat.core.study import load_study
from ummgat.intake.layouts import find_study, not_acquired, origin_unknown
from ummgat.intake.left_out import may_be
from ummgat.intake.lenient import lenient_json
from ummgat.intake.sidecars import read_sidecar
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings


@pytest.mark.parametrize(
    ("stem", "sequences"),
    [
        ("flair_reg", ("flair",)),
        ("flair3d", ("flair",)),
        ("t2w_flair_bet", ("flair",)),
        ("FLR", ("flair",)),
        ("T1KM", ("t1ce",)),
        ("T1_Gado_reg", ("t1ce",)),
        ("ax_postcontrast", ("t1ce",)),
        ("MPRAGE", ("t1", "t1ce")),
        ("t1x", ("t1", "t1ce")),
        ("t2tse", ("t2",)),
        ("swi3d", ("swi",)),
        ("b1000", ("dwi",)),
        ("IM0007", SEQUENCES),
        ("T2_star", ()),
        ("wm_prob", ()),
        ("brain_mask", ()),
        ("adc", ()),
    ],
)
def test_a_name_says_what_a_file_may_be(stem, sequences):
    assert may_be(stem) == tuple(sequences)


def raw_with(phantom, folder, name, sequence="t1ce"):
    """A's t1 and t2, and the true `sequence` under another name."""
    study = some_of(phantom, folder, A, ["t1", "t2"])
    (study / name).parent.mkdir(exist_ok=True)
    shutil.copy(phantom / "studies" / A / f"{A}_{sequence}.nii.gz", study / name)
    return study


@pytest.mark.parametrize(
    "name", ["T1KM.nii.gz", f"{A}_t1ce_reg.nii.gz", "x7.nii.gz", "t1c.mha", f"{A}_T1_Gd.nrrd", "t1ce/0001.dcm"]
)
@pytest.mark.parametrize("way", ["plain", "prepared"])
def test_what_may_have_been_acquired_is_not_generated(phantom, model, tmp_path, name, way):
    study = raw_with(phantom, tmp_path / "in", name)
    source = study
    if way == "prepared":
        source = tmp_path / "cohort"
        report = prepare_cohort(study.parent, source, PrepareSettings(center="A"))
        assert report.ignored == {A: [name]}
        assert name in load_study(source / A).record.left_out
    report = complete(source, tmp_path / "out", model, center="A")
    assert not report.done
    assert f"{name} (may be" in report.failed[A]
    assert f"--leave-out {name}" in report.failed[A]
    assert not (tmp_path / "out" / A).exists()
    told = complete(source, tmp_path / "out", model, center="A", leave_out=[name])
    assert told.done[A][0].endswith("t1ce_generated.nii.gz" if way == "plain" else "t1ce_generated.nii")
    assert f"left out: {name}" in " ".join(told.warnings[A])
    sidecar = next((tmp_path / "out" / A).glob("*t1ce_generated.json"))
    assert json.loads(sidecar.read_text(encoding="utf-8"))["left_out"] == [name]
    if way == "plain":
        assert (tmp_path / "out" / A / name).read_bytes() == (study / name).read_bytes()


def test_what_was_not_asked_for_blocks_nothing(phantom, model, tmp_path):
    """An unknown flair, and a file whose name says it is none of the sequences, leave t1ce to be generated."""
    study = raw_with(phantom, tmp_path / "in", "flair_reg.nii.gz", "t2")
    shutil.copy(study / "flair_reg.nii.gz", study / "T2_star.nii.gz")
    report = complete(study, tmp_path / "out", model, center="A")
    assert not report.failed
    assert "T2_star.nii.gz, flair_reg.nii.gz" in " ".join(report.warnings[A])


def test_a_file_added_later_is_seen(phantom, model, tmp_path):
    study = some_of(phantom, tmp_path / "in", A, ["t1", "t2"])
    assert complete(study, tmp_path / "out", model, center="A").done
    shutil.copy(phantom / "studies" / A / f"{A}_t1ce.nii.gz", study / "T1KM.nii.gz")
    assert A in complete(study, tmp_path / "out", model, center="A").failed


def test_files_beside_the_images_are_carried_along(phantom, model, tmp_path):
    study = some_of(phantom, tmp_path / "in", A, ["t1", "t2"])
    (study / f"{A}_t1.json").write_text('{"EchoTime": 0.01}')
    shutil.copy(phantom / "studies" / A / f"{A}_seg.nii.gz", study)
    before = contents(study)
    assert not complete(study, tmp_path / "out", model, center="A").failed
    assert before.items() <= contents(tmp_path / "out" / A).items()


# ---------------------------------------------------------------- sidecars

SAYS = '{"EchoTime": 0.09, "RepetitionTime": 5.0%s}'
SPOILED = {
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "trailing comma": lambda text: text.replace("}", ",\n}").encode(),
    "comma in a list": lambda text: text.replace("}", ', "ImageType": ["ORIGINAL", "PRIMARY",]}').encode(),
    "newline in a string": lambda text: text.replace("}", ', "Comments": "a\nb"}').encode(),
    "tab in a string": lambda text: text.replace("}", ', "Comments": "a\tb"}').encode(),
    "latin-1": lambda text: text.replace("}", ', "Institution": "Köln"}').encode("latin-1"),
    "not a number": lambda text: text.replace("}", ', "Dwell": NaN}').encode(),
    "spaces": lambda text: b"\n\n  " + text.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_sidecar_a_little_wrong_is_read(tmp_path, spoil):
    image = save(tmp_path / "p" / "t2.nii.gz", brain())
    sidecar = tmp_path / "p" / "t2.json"
    sidecar.write_bytes(spoil(SAYS % ""))
    assert not_acquired(image) is None
    assert read_sidecar(image)[0].echo_ms == pytest.approx(90)
    assert list(find_study(tmp_path).images) == ["t2"]
    sidecar.write_bytes(spoil(SAYS % ', "generated": true'))
    assert "says generated" in not_acquired(image)
    assert not find_study(tmp_path, "folder").images


@pytest.mark.parametrize("content", [b"", b"{", b'{"EchoTime": 0.0', b"no JSON", b"[" * 100_000, b"\xff\xfe\x00"])
def test_a_hopeless_sidecar_leaves_the_image_out_and_blocks_its_sequence(phantom, model, tmp_path, content):
    study = some_of(phantom, tmp_path / "in", A, ["t1", "t2", "t1ce"])
    (study / f"{A}_t1ce.json").write_bytes(content)
    assert origin_unknown(study / f"{A}_t1ce.nii.gz")
    report = complete(study, tmp_path / "out", model, center="A")
    assert f"{A}_t1ce.nii.gz (may be t1ce)" in report.failed[A]


def test_a_cut_sidecar_of_a_generated_image_is_no_acquired_one(tmp_path):
    image = save(tmp_path / "p" / "t2.nii.gz", brain())
    (tmp_path / "p" / "t2.json").write_text('{"generated": true, "target": "A/t2", "sources": ["A/')
    assert "says generated" in not_acquired(image)
    assert not origin_unknown(image)


def test_what_is_no_json_at_all_is_said():
    with pytest.raises(ValueError, match="Expecting"):
        lenient_json(b"hello")
