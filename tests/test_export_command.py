"""From named DICOM to completed DICOM and BIDS by the commands, and a search for the patient in everything that comes
out.
"""

import gzip
import logging
import re
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from export_world import OTHER, PETRA, asymmetric, labels_on, make_source, write_completed
from ummgat.cli import app
from ummgat.core.stamp import STAMP
from ummgat.core.volume import read_volume, write_volume
from ummgat.export.cohort import unused_labels
from ummgat.intake.convert import convert
from ummgat.intake.sheet import read_sheet
from ummgat.phantom.dicom import write_series

A = "Phantom_A_006"
FORM = re.compile(r"Error: .+[:.] Found .+; expected .+\. [A-Z].+\.\s*$", re.DOTALL)

SECRETS = {
    "Quastenflosser",
    "Petronella",
    "ZX-4711-88",
    "ZX471188",
    "19610203",
    "1961-02-03",
    "03.02.1961",
    "Hinterwald",
    "Waldweg",
    "Opitz",
    "ALT-0815",
    "ACC00001",
    "Referrer",
}
"""Name, ID, birth date in several forms, institution, operator, other numbers: of the phantom patient."""


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def found_in(text):
    """Secrets in bytes or text, whatever their case, also in UTF-16."""
    raw = text.encode() if isinstance(text, str) else text
    lower = raw.lower()
    return {s for s in SECRETS if s.lower().encode() in lower or s.lower().encode("utf-16-le") in lower}


def leaks(folder):
    """Where below `folder` a secret occurs: in a path or in contents, unpacked where packed."""
    found = {}
    for path in folder.rglob("*"):
        secrets = found_in(str(path.relative_to(folder)))
        if path.is_file():
            raw = path.read_bytes()
            secrets |= found_in(raw) | (found_in(gzip.decompress(raw)) if raw[:2] == b"\x1f\x8b" else set())
        if secrets:
            found[path.relative_to(folder).as_posix()] = secrets
    return found


# ---------------------------------------------------------------- the chain, and the search


@pytest.fixture(scope="module")
def chain(phantom, model_path, tmp_path_factory):
    """Every command from a disc that names its patient everywhere to DICOM and BIDS: (folder, all that was printed and
    logged).
    """
    folder = tmp_path_factory.mktemp("chain")
    disc = tmp_path_factory.mktemp("disc") / "Quastenflosser Petronella ZX-4711-88"
    for number, sequence in enumerate(("t1", "t2"), start=1):
        data, grid = read_volume(phantom / "studies" / A / f"{A}_{sequence}.nii.gz")
        scaled = np.where(data > 0, 1 + data * (1000 / data.max()), 0)
        home = disc / "1961-02-03" / f"Krankenhaus Hinterwald {number}"
        write_series(scaled, grid.matrix, home, PETRA, sequence, series=number, changes=OTHER)
    printed = []
    handler = logging.Handler(0)
    handler.emit = lambda record: printed.append(record.getMessage())
    logging.getLogger().addHandler(handler)

    def do(*arguments):
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
        printed.extend((result.stdout, result.stderr))

    try:
        sheet = folder / "sheet.csv"
        do("inspect", disc, "--out", sheet)
        studies = read_sheet(sheet, disc).studies()
        ((subject, _), roles), *rest = studies.items()
        assert not rest
        assert set(roles) == {"t1", "t2"}
        (folder / "nifti" / subject).mkdir(parents=True)
        for role, entry in roles.items():
            convert(entry.source, folder / "nifti" / subject / f"{subject}_{role}.nii.gz")
        do("complete", folder / "nifti", folder / "completed", "--model", model_path, "--center", "A")
        labels = folder / "labels"
        labels.mkdir()
        _, grid = read_volume(folder / "nifti" / subject / f"{subject}_t1.nii.gz")
        write_volume(labels / f"{subject}.nii.gz", labels_on(grid.shape), grid)
        common = ["--to", "dicom", "--source", disc, "--sheet", sheet, "--labels", labels, "--labels-by", "U-Net 1"]
        do("export", folder / "completed", folder / "dicom", *common)
        do("export", folder / "completed", folder / "anonymous", *common, "--deidentify")
        do("export", folder / "completed", folder / "bids", "--to", "bids")
    finally:
        logging.getLogger().removeHandler(handler)
    return folder, "\n".join(printed), subject


def test_the_search_finds_what_is_there(chain, tmp_path):
    """Plain DICOM names the patient as its source does; a packed header or a path would be found too."""
    folder, _, _ = chain
    found = leaks(folder / "dicom")
    assert len(found) == sum(path.is_file() and path.name != STAMP for path in (folder / "dicom").rglob("*"))
    assert {"Quastenflosser", "Petronella", "ZX-4711-88", "19610203"} <= set.intersection(*found.values())
    image = nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4))
    image.header["descrip"] = b"quastenflosser"
    nib.save(image, tmp_path / "a.nii.gz")
    (tmp_path / "ZX-4711-88").mkdir()
    assert leaks(tmp_path) == {"a.nii.gz": {"Quastenflosser"}, "ZX-4711-88": {"ZX-4711-88"}}


@pytest.mark.parametrize("part", ["nifti", "completed", "bids", "labels", "sheet.csv", "sheet.key.json"])
def test_no_file_or_path_names_the_patient(chain, part):
    folder, _, _ = chain
    place = folder / part
    assert place.exists()
    assert not (leaks(place) if place.is_dir() else found_in(place.read_bytes()))


def test_no_line_that_was_printed_or_logged_names_the_patient(chain):
    _, printed, subject = chain
    assert subject in printed
    assert not found_in(printed)


def test_deidentified_dicom_names_nobody(chain):
    folder, _, subject = chain
    assert not leaks(folder / "anonymous")
    for path in (folder / "anonymous").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        assert (data.PatientName, data.PatientID) == (subject, subject)
        assert not [e for e in data.iterall() if e.tag.is_private]
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber", "ReferringPhysicianName"):
            assert keyword in data  # type 2: there, and empty
            assert not data[keyword].value


def test_deidentified_series_and_segmentation_belong_together(chain):
    folder, _, subject = chain
    image = pydicom.dcmread(folder / "anonymous" / subject / "t1ce_SYNTHETIC" / "IM0001.dcm")
    seg = pydicom.dcmread(folder / "anonymous" / subject / "tumour_SEG.dcm")
    named = pydicom.dcmread(folder / "dicom" / subject / "t1ce_SYNTHETIC" / "IM0001.dcm")
    assert image.StudyInstanceUID == seg.StudyInstanceUID != named.StudyInstanceUID
    assert image.FrameOfReferenceUID == seg.FrameOfReferenceUID != named.FrameOfReferenceUID
    planes = [pydicom.dcmread(path) for path in (folder / "anonymous" / subject / "t1ce_SYNTHETIC").iterdir()]
    assert {p.StudyInstanceUID for p in planes} == {seg.StudyInstanceUID}
    assert {p.SeriesInstanceUID for p in planes} == {image.SeriesInstanceUID}
    assert len({p.SOPInstanceUID for p in planes}) == len(planes)
    old = {e.value for e in named.iterall() if e.VR == "UI"}
    new = {e.value for e in [*image.iterall(), *seg.iterall()] if e.VR == "UI"}
    assert all(uid.startswith("1.2.840.10008.") for uid in old & new)


def test_the_generated_t1ce_is_what_was_completed(chain):
    """Voxel by voxel on the grid of the source, warning included."""
    folder, printed, subject = chain
    values, _ = read_volume(folder / "completed" / subject / f"{subject}_t1ce_generated.nii.gz")
    files = sorted((folder / "dicom" / subject / "t1ce_SYNTHETIC").iterdir())
    planes = [pydicom.dcmread(path) for path in files]
    assert np.array_equal(np.stack([p.pixel_array.T for p in planes], axis=2), values)
    assert "contrast uptake is not in the other sequences" in planes[0].DerivationDescription
    assert "contrast uptake" in printed


# ---------------------------------------------------------------- the command


@pytest.fixture
def world(tmp_path):
    """One patient: DICOM T1, a completed study with a generated T2."""
    source = make_source(tmp_path / "disc")
    write_completed(tmp_path / "completed", source, asymmetric(source.grid.shape), "S001")
    return tmp_path, source


def export(folder, *arguments):
    return run("export", folder / "completed", folder / "out", "--to", "dicom", "--source", folder / "disc", *arguments)


def test_one_patient_needs_no_sheet(world):
    folder, source = world
    result = export(folder, "--mark")
    assert result.exit_code == 0, result.stderr
    assert "1 studies exported, 0 up to date, 0 failed" in result.stdout
    assert "name the patient" in result.stderr
    files = sorted((folder / "out/S001/t2_SYNTHETIC").iterdir())
    assert [path.name for path in files] == [f"IM{k + 1:04d}.dcm" for k in range(source.grid.shape[2])]


def test_the_second_time_it_is_up_to_date(world):
    folder, _ = world
    assert export(folder).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    again = export(folder)
    assert again.exit_code == 0, again.stderr
    assert "0 studies exported, 1 up to date, 0 failed" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")} == before
    other = export(folder, "--mark")
    assert other.exit_code == 1
    assert "Found one made from other files or with other settings" in other.stderr


def test_two_patients_need_a_sheet(world):
    folder, source = world
    write_series(asymmetric(source.grid.shape, dtype=float), source.affine, folder / "disc/b", {"PatientID": "2"}, "t1")
    result = export(folder)
    assert result.exit_code == 2
    assert FORM.match(result.stderr), result.stderr
    assert "several patients. Found 2" in result.stderr
    assert not (folder / "out").exists()


def test_two_studies_of_one_disc_are_not_mixed_up(world):
    folder, source = world
    write_completed(folder / "completed", source, asymmetric(source.grid.shape), "S002")
    result = export(folder)
    assert result.exit_code == 2
    assert "Studies cannot be told apart" in result.stderr


def test_a_subject_that_is_not_in_the_sheet_fails_alone(world):
    folder, source = world
    assert run("inspect", folder / "disc", "--out", folder / "sheet.csv").exit_code == 0
    write_completed(folder / "completed", source, asymmetric(source.grid.shape), "Somebody")
    result = export(folder, "--sheet", folder / "sheet.csv")
    assert result.exit_code == 1
    assert "Subject has no source series: Somebody. Found S001" in result.stderr
    assert "1 studies exported, 0 up to date, 1 failed" in result.stdout


def test_a_source_of_another_sequence_is_never_taken(world):
    """On the very same grid, but a T2 where the sidecar says T1."""
    folder, _ = world
    shutil.rmtree(folder / "disc")
    make_source(folder / "disc", sequence="t2")
    result = export(folder)
    assert result.exit_code == 1
    assert "Source series is not clear: T2 of S001" in result.stderr
    assert not (folder / "out" / "S001").exists()


def test_a_source_twice_is_asked_for(world):
    folder, source = world
    write_series(
        asymmetric(source.grid.shape, dtype=float), source.affine, folder / "disc/again", PETRA, "t1", series=2
    )
    result = export(folder)
    assert result.exit_code == 1
    assert "2 on its grid" not in result.stderr  # the series are listed instead
    assert len(re.findall("dicom:", result.stderr)) == 2


def test_after_registration_an_image_lies_on_another_series_and_names_its_own(world):
    """T2 from a FLAIR that was brought to the T1's grid: the T1's geometry, the FLAIR as source."""
    folder, place = world
    source = make_source(tmp := folder / "flair", "sagittal", "flair", series=2)
    shutil.copytree(tmp, folder / "disc" / "flair")
    shutil.rmtree(folder / "completed")
    told = {"sources": ["A/flair"]}
    write_completed(folder / "completed", place, asymmetric(place.grid.shape), "S001", told)
    assert export(folder).exit_code == 0
    data = pydicom.dcmread(folder / "out/S001/t2_SYNTHETIC/IM0004.dcm")
    assert data.ImagePositionPatient == pydicom.dcmread(place.instances[3].file).ImagePositionPatient
    assert {i.ReferencedSOPInstanceUID for i in data.SourceImageSequence} == {
        i.sop_instance_uid for i in source.instances
    }
    assert {i.SpatialLocationsPreserved for i in data.SourceImageSequence} == {"NO"}
    assert [i.SeriesInstanceUID for i in data.ReferencedSeriesSequence] == [source.series_uid, place.series_uid]
    assert "from FLAIR" in data.SeriesDescription


def test_a_series_of_another_exam_is_no_place(world):
    folder, place = world
    make_source(folder / "disc" / "flair", "sagittal", "flair", series=2, study=2)
    shutil.rmtree(folder / "completed")
    write_completed(folder / "completed", place, asymmetric(place.grid.shape), "S001", {"sources": ["A/flair"]})
    result = export(folder)
    assert result.exit_code == 1
    assert "Source series is not clear" in result.stderr


def test_whole_tumour_labels_become_one_segment(world):
    folder, source = world
    labels = (labels_on(source.grid.shape) > 0).astype(np.uint8)
    write_volume(folder / "wt.nii.gz", labels, source.grid)
    result = export(folder, "--labels", folder / "wt.nii.gz", "--labels-by", "nnU-Net 2.5")
    assert result.exit_code == 0, result.stderr
    (segment,) = pydicom.dcmread(folder / "out/S001/tumour_SEG.dcm").SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmName) == ("Whole tumour", "nnU-Net")
    identified = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert identified.AlgorithmVersion == "2.5"


@pytest.mark.parametrize("names", [(), ("s001.nii.gz",), ("S001_labels.nii.gz", "S001_t1_seg.nii.gz"), ("S0011.nii",)])
def test_a_folder_of_label_maps_of_nobody_is_refused(world, names):
    folder, source = world
    (folder / "labels").mkdir()
    for name in names:
        write_volume(folder / "labels" / name, labels_on(source.grid.shape), source.grid)
    result = export(folder, "--labels", folder / "labels", "--labels-by", "nnU-Net 2.5")
    assert result.exit_code == 2
    assert "No label map fits a study" in result.stderr
    assert all(name in result.stderr for name in names)
    assert "S001.nii.gz" in result.stderr
    assert not (folder / "out").exists()


def test_label_maps_of_nobody_and_studies_without_one_are_named(world):
    folder, source = world
    (folder / "labels").mkdir()
    for name in ("S001.nii.gz", "S01.nii.gz"):
        write_volume(folder / "labels" / name, labels_on(source.grid.shape), source.grid)
    assert unused_labels(folder / "labels", folder / "completed") == (["S01.nii.gz"], [])
    shutil.copytree(folder / "completed" / "S001", folder / "completed" / "S002")
    assert unused_labels(folder / "labels", folder / "completed") == (["S01.nii.gz"], ["S002"])
    shutil.rmtree(folder / "completed" / "S002")
    result = export(folder, "--labels", folder / "labels", "--labels-by", "nnU-Net 2.5")
    assert result.exit_code == 0, result.stderr
    assert "Label maps of no study: S01.nii.gz." in result.stdout
    assert "Studies without" not in result.stdout


@pytest.mark.parametrize("place", ["disc/out", "completed/out", "completed", "."])
def test_inputs_are_never_written_to(world, place):
    folder, _ = world
    arguments = ["--to", "dicom", "--source", folder / "disc", "--overwrite"]
    result = run("export", folder / "completed", folder / place, *arguments)
    assert result.exit_code == 2
    assert "Output and input are not apart" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "dicom"], "Source series are unknown: --source"),
        (["--to", "bids", "--deidentify"], "Options do not go together"),
        (["--to", "dicom", "--source", "disc", "--labels", "x"], "Label maps and their maker go together"),
        (["--to", "dicom", "--source", "disc", "--labels", "x", "--labels-by", "U 1"], "Label map is missing"),
        (["--to", "dicom", "--source", "nowhere"], "Source folder is missing"),
    ],
)
def test_unclear_orders_are_refused(world, monkeypatch, arguments, message):
    folder, _ = world
    monkeypatch.chdir(folder)
    result = run("export", "completed", "out", *arguments)
    assert result.exit_code == 2
    assert FORM.match(result.stderr), result.stderr
    assert message in result.stderr
    assert not (folder / "out").exists()


def test_a_prepared_study_is_refused_as_dicom_and_exported_as_bids(world, cohort):
    folder, _ = world
    shutil.rmtree(folder / "completed")
    shutil.copytree(cohort / A, folder / "completed" / A)
    result = export(folder)
    assert result.exit_code == 1
    assert "on the grid of `ummgat prepare`" in result.stderr
    assert run("export", folder / "completed", folder / "bids", "--to", "bids").exit_code == 0
    names = [path.name for path in (folder / "bids/sub-PhantomA006/anat").iterdir() if path.name.endswith("nii.gz")]
    assert "sub-PhantomA006_desc-tumour_dseg.nii.gz" in names
    assert "sub-PhantomA006_ce-gadolinium_desc-preproc_T1w.nii.gz" in names
    table = (folder / "bids/sub-PhantomA006/anat/sub-PhantomA006_desc-tumour_dseg.tsv").read_text()
    assert table == "index\tname\n0\tbackground\n1\tNCR\n2\tED\n3\tET\n"
