"""An exam with repeats, reformats, and thick and thin series: one of each sequence is chosen, by rules that are
told.
"""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("pydicom")

from typer.testing import CliRunner

from ummgat.cli import app
from ummgat.intake.prefer import RULES, prefer
from ummgat.intake.privacy import Key
from ummgat.intake.rows import Row
from ummgat.intake.scan import scan_folder
from ummgat.intake.sheet import read_sheet
from ummgat.phantom.dicom import write_series

# Voxel sizes (column, row, plane) and shapes: a head each, but for the slab.
THIN, THICK, SLAB = ((1.25, 1.25, 1.25), (160, 160, 112)), ((2.0, 2.0, 5.0), (100, 100, 28)), ((1, 1, 2), (64, 64, 20))
TURNED = {
    "axial": np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "sagittal": np.array([[0, 0, -1.0], [-1, 0, 0], [0, -1, 0]]),
    "coronal": np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}
MPRAGE = {"ScanningSequence": "GR", "RepetitionTime": 1900, "EchoTime": 2.5, "InversionTime": 900}
REFORMAT = {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}


def series(name, sequence, size=THICK, plane="axial", **changes):
    """One line of a protocol."""
    return name, sequence, size, plane, {"SeriesDescription": name, "ProtocolName": name, **changes}


def written(folder, protocol):
    """Write a protocol, one series after another."""
    for number, (_, sequence, (spacing, shape), plane, changes) in enumerate(protocol, start=1):
        affine = np.eye(4)
        affine[:3, :3] = TURNED[plane] * np.array(spacing)
        image = np.random.default_rng(number).integers(0, 900, (shape[0], shape[1], 1)) + np.arange(shape[2])
        write_series(image, affine, folder / f"{number:02d}", sequence=sequence, series=number, changes=changes)
    return folder


def choices(folder, accept="sure"):
    """Description → what the sheet says."""
    rows = scan_folder(folder, Key("00" * 16), accept=accept).rows
    return {row.description.partition(" | ")[0].split("  ")[0]: row for row in rows}


PROTOCOL = [
    (*series("survey", "t1", SLAB, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "none", "none"),
    (*series("T1W_TSE_nativ", "t1"), "none", "none"),
    (*series("sT1W_3D_nativ", "t1", THIN, "sagittal", **MPRAGE), "t1", "t1"),
    (*series("sT1W_3D_nativ_MPR", "t1", THICK, **MPRAGE, **REFORMAT), "none", "none"),
    (*series("T2W_TSE_motion", "t2"), "none", "none"),
    (*series("T2W_TSE", "t2"), "t2", "t2"),
    (*series("T2W_TSE_cor", "t2", THICK, "coronal"), "none", "none"),
    (*series("T2W_TSE_hippocampus", "t2", SLAB), "none", "none"),
    (*series("T2W_GRE", "swi"), "", ""),
    (*series("FLAIR_dark_fluid_sag", "flair", THICK, "sagittal"), "none", "none"),
    (*series("FLAIR_dark_fluid_3D", "flair", THIN, "sagittal"), "flair", "flair"),
    (*series("DWI_b1000", "dwi"), "dwi", "dwi"),
    (*series("DWI_ADC", "dwi", ImageType=["DERIVED", "SECONDARY", "ADC"], DiffusionBValue=None), "none", "none"),
    (*series("SWI_tra", "swi"), "swi", "swi"),
    (*series("SWI_tra_mIP", "swi", ImageType=["DERIVED", "SECONDARY", "MINIP"]), "", ""),
    (*series("T1W_TSE_KM", "t1ce"), "none", "none"),
    (*series("sT1W_3D_KM", "t1ce", THIN, "sagittal", **MPRAGE), "t1ce", "t1ce"),
    (*series("sT1W_3D_KM_fs", "t1ce", THIN, "sagittal", **MPRAGE), "none", "none"),
    (*series("sT1W_3D_KM_tra_MPR", "t1ce", THICK, **MPRAGE, **REFORMAT), "none", "none"),
]


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    return written(tmp_path_factory.mktemp("exam"), [line[:5] for line in PROTOCOL])


@pytest.mark.parametrize(("accept", "place"), [("sure", 5), ("likely", 6)])
def test_a_tumour_protocol_settles_itself(exam, accept, place):
    """Of nineteen series seventeen are settled, rightly; two with words for a sequence that speak against it are asked
    about.
    """
    rows = choices(exam, accept)
    assert {name: row.sequence for name, row in rows.items()} == {line[0]: line[place] for line in PROTOCOL}


def test_every_choice_is_told_on_both_sides(exam):
    rows = choices(exam)
    chosen, reformatted = rows["sT1W_3D_nativ"], rows["sT1W_3D_nativ_MPR"]
    assert f"preferred as t1 to {rows['T1W_TSE_nativ'].series}" in chosen.findings
    assert f"runner-up as t1 to {chosen.series}: " in reformatted.findings
    assert "less than a brain" in rows["T2W_TSE_hippocampus"].findings
    assert "said to hold artefacts" in rows["T2W_TSE_motion"].findings
    assert "coronal slices, not axial slices" in rows["T2W_TSE_cor"].findings
    assert "fat suppressed" in rows["sT1W_3D_KM_fs"].findings


def test_a_true_tie_is_asked_about_and_the_rest_set_aside(tmp_path):
    lines = [series("T2W_TSE", "t2"), series("T2W_TSE b", "t2"), series("T2W_TSE_sag", "t2", THICK, "sagittal")]
    rows = scan_folder(written(tmp_path, lines), Key("00" * 16), accept="likely").rows
    assert Counter(row.sequence for row in rows) == {"": 2, "none": 1}
    first, second, _ = rows
    assert f"could be t2 like {second.series}: choose one" in first.findings


def test_one_protocol_run_twice_was_run_for_contrast(tmp_path):
    """Nothing says so: the second is likely a t1ce, and taken for one only where likely is enough."""
    lines = [series("T1_SE", "t1"), series("T2W_TSE", "t2"), series("T1_SE", "t1")]
    folder = written(tmp_path, lines)
    assert [row.sequence for row in scan_folder(folder, Key("00" * 16)).rows] == ["", "t2", ""]
    rows = scan_folder(folder, Key("00" * 16), accept="likely").rows
    assert [row.sequence for row in rows] == ["t1", "t2", "t1ce"]
    assert "probably before contrast agent" in rows[2].why


def test_rules_are_asked_in_order():
    """A sure thick row beats a likely thin one; among sure ones the first rule that tells them apart decides."""
    likely = Row("thin", "DICOM", proposal="t2", sure="likely")
    repeated = Row("b", "DICOM", proposal="t2", sure="sure", description="t2 repeat")
    plain = Row("a", "DICOM", proposal="t2", sure="sure", description="t2 fs")
    prefer([likely, plain, repeated], "t2")
    assert [row.skip for row in (likely, plain, repeated)] == [True, True, False]
    assert "only likely, not sure" in likely.findings
    assert "not said to be a repetition, not said to be a repetition" in plain.findings
    assert len(RULES) == len(set(RULES))


def test_the_commands_take_it(tmp_path):
    """`inspect` fills the sheet by it; beside a sheet, which decides for itself, `segment` refuses it."""
    disc, sheet = tmp_path / "disc", tmp_path / "sheet.csv"
    written(disc, [series("T1_SE", "t1"), series("T2W_TSE", "t2"), series("T1_SE", "t1")])
    result = CliRunner().invoke(app, ["inspect", str(disc), "--out", str(sheet), "--accept", "likely"])
    assert "3 are clear, 0 need your word" in result.output
    assert [entry.sequence for entry in read_sheet(sheet, disc).entries] == ["t1", "t2", "t1ce"]
    out = tmp_path / "out"
    asked = ["segment", str(disc), str(out), "--sheet", str(sheet), "--accept", "likely"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert "Sheet and --accept exclude each other" in result.output
