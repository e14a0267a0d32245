"""From named DICOM to completed studies and back, with every output searched for the patient."""

import csv
import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from phantom_dicom import NAMED, SECRETS
from ummgat.cli import app
from ummgat.completion.cohort import complete
from ummgat.completion.scans import complete_scans
from ummgat.core.study import load_study
from ummgat.core.volume import read_volume, resample, write_volume
from ummgat.export.cohort import Segmentations, export_bids, export_dicom
from ummgat.export.seg import Algorithm
from ummgat.intake.layouts import Packed, RawStudy
from ummgat.intake.privacy import Key, key_path
from ummgat.intake.scan import scan_folder
from ummgat.intake.sheet import write_sheet
from ummgat.intake.studies import LAYOUT, studies_of_sheet
from ummgat.model.weights import load_model, save_model
from ummgat.phantom import brats_frame, make_scanner
from ummgat.phantom.dicom import write_series
from ummgat.phantom.raw import Acquisition, Pose, make_head, scan_raw
from ummgat.phantom.subject import make_body, scan
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.one import _unpacked
from ummgat.prepare.rigid import moved
from ummgat.prepare.settings import PrepareSettings

SCANNER = make_scanner("A", 0)
SPACING = 4.0


@pytest.fixture(scope="module")
def coarse_model(model_path, tmp_path_factory):
    """The miniature model, told that its voxels are of 4 mm."""
    model = load_model(model_path)
    data = model.config.data.model_copy(update={"spacing_mm": SPACING})
    model.config = model.config.model_copy(update={"data": data})
    path = tmp_path_factory.mktemp("model") / "coarse.safetensors"
    save_model(path, model)
    return load_model(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Another subject's stripped T1, coarse."""
    path = tmp_path_factory.mktemp("template") / "template.nii.gz"
    frame = brats_frame(4.0)
    write_volume(path, np.ascontiguousarray(scan(make_body(9, frame), SCANNER, "t1", 9)).T, frame.grid)
    return path


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A named patient's T1 and T2 as DICOM, a brain mask of the T1 as NIfTI, and a sheet that says so."""
    home = tmp_path_factory.mktemp("hospital")
    head = make_head(make_body(4, brats_frame(3.0)), 4)
    t1 = scan_raw(head, SCANNER, "t1", 1, Acquisition("sagittal", 3.0, 3.0), Pose(0, 0, 8))
    t2 = scan_raw(head, SCANNER, "t2", 1, Acquisition("axial", 3.0, 4.0, 1.0), Pose(10, 12, 8))
    disc = home / "disc"
    write_series(t1.data, t1.grid.matrix, disc / "S1", NAMED, "t1", series=1)
    write_series(t2.data, t2.grid.matrix, disc / "S2", NAMED, "t2", series=2)
    brain = np.ascontiguousarray(head.brain.T).astype(np.float32)
    mask = (resample(brain, moved(head.grid, t1.moved), t1.grid) >= 0.5).astype(np.uint8)
    write_volume(disc / "masks" / "brain_mask.nii.gz", mask, t1.grid)
    sheet, key = home / "sheet.csv", Key()
    write_sheet(sheet, scan_folder(disc, key), key)
    with sheet.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (subject,) = {row["subject"] for row in rows if row["series"].startswith("dicom:")}
    (session,) = {row["session"] for row in rows if row["series"].startswith("dicom:")}
    for row in rows:
        row["subject"], row["session"] = subject, session
        if not row["series"].startswith("dicom:"):
            row["sequence"] = "brain_mask"
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    name = f"{subject}_{session}" if session else subject
    return SimpleNamespace(disc=disc, sheet=sheet, name=name, head=head, t1=t1, t2=t2, brain=brain)


@pytest.fixture(scope="module")
def done(hospital, coarse_model, template, tmp_path_factory):
    """The patient prepared and completed."""
    out = tmp_path_factory.mktemp("done")
    report = complete_scans(hospital.disc, out, coarse_model, center="A", sheet=hospital.sheet, template=template)
    return SimpleNamespace(out=out, report=report, study=out / "completed" / hospital.name)


def secrets_in(folder, dicom):
    """Files below `folder` whose name or content gives the patient away."""
    found = []
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)).lower()
        if path.is_file() and (dicom or path.suffix != ".dcm"):
            data = path.read_bytes()
            if path.suffix == ".gz":
                data = nib.Nifti1Image.from_filename(path).header.binaryblock
            text += data.decode("latin-1").lower() + data.decode("utf-8", "ignore").lower()
        found += [(path, secret) for secret in SECRETS if secret in text]
    return found


def test_a_disc_becomes_a_complete_study(done, hospital):
    assert done.report.failed == {}
    study = load_study(done.study)
    assert set(study.sequences) == {"t1", "t1ce", "t2"}
    assert study.acquired == ["t1", "t2"]
    assert all(image.source_file.startswith("dicom:") for image in study.record.images.values() if image.source_file)
    assert any("contrast" in warning for warning in done.report.completed.warnings[hospital.name])
    mask = study.companion(study.record.brain_mask_file) > 0
    shown = study.volume("t1") > 0
    assert 2 * (mask & shown).sum() / (mask.sum() + shown.sum()) > 0.95


def test_an_unknown_center_is_refused_at_once(hospital, coarse_model, tmp_path):
    with pytest.raises(ValueError, match="does not know the center"):
        complete_scans(hospital.disc, tmp_path / "out", coarse_model, center="Nowhere", sheet=hospital.sheet)
    assert not (tmp_path / "out").exists()


def test_a_generated_image_lies_on_its_scan(done, hospital):
    (path,) = (done.study / "native").glob("*_t1ce_generated.nii.gz")
    sidecar = json.loads((path.parent / path.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    source = {"t1": hospital.t1, "t2": hospital.t2}[sidecar["grid_of"]]
    data, grid = read_volume(path)
    # The scan's own order of voxels, so that planes go back to their files one by one.
    assert grid.shape == source.grid.shape
    corners = np.array(
        [[x, y, z, 1] for x in (0, grid.shape[0]) for y in (0, grid.shape[1]) for z in (0, grid.shape[2])]
    )
    assert np.abs((grid.matrix - source.grid.matrix) @ corners.T).max() < 1e-3
    brain = resample(hospital.brain, moved(hospital.head.grid, source.moved), source.grid) >= 0.5
    shown = data > 0
    assert 2 * (brain & shown).sum() / (brain.sum() + shown.sum()) > 0.93
    mirrored = shown[::-1] if sidecar["grid_of"] == "t2" else shown[:, :, ::-1]
    assert 2 * (brain & mirrored).sum() / (brain.sum() + mirrored.sum()) < 0.93


def test_t2_that_moved_also_goes_back_to_where_it_was(done, hospital, coarse_model, tmp_path):
    from ummgat.completion.fill import Request

    report = complete(
        done.out / "prepared", tmp_path, coarse_model, request=Request(targets=("t1ce",), sources=("t2",))
    )
    assert report.failed == {}
    (path,) = (tmp_path / hospital.name / "native").glob("*_t1ce_generated.nii.gz")
    data, grid = read_volume(path)
    assert grid.shape == hospital.t2.grid.shape
    brain = resample(hospital.brain, moved(hospital.head.grid, hospital.t2.moved), hospital.t2.grid) >= 0.5
    assert 2 * (brain & (data > 0)).sum() / (brain.sum() + (data > 0).sum()) > 0.93


def test_it_is_exported_beside_its_series(done, hospital, tmp_path):
    prepared = load_study(done.out / "prepared" / hospital.name)
    labels = np.zeros(prepared.grid.shape, np.uint8)
    inside = np.argwhere((prepared.volume("t1") > 0).T)
    middle = inside.mean(0).astype(int)
    labels[tuple(slice(m - 3, m + 4) for m in middle)] = 2
    (tmp_path / "labels").mkdir()
    write_volume(tmp_path / "labels" / f"{hospital.name}.nii.gz", labels, prepared.grid)
    found = Segmentations(tmp_path / "labels", Algorithm("phantom", "1"))
    for hidden in (False, True):
        out = tmp_path / f"dicom{hidden}"
        report = export_dicom(
            done.out / "completed", out, hospital.disc, sheet=hospital.sheet, deidentify=hidden, segmentations=found
        )
        assert report.failed == {}
        assert secrets_in(out, dicom=hidden) == []
        planes = sorted((out / hospital.name / "t1ce_SYNTHETIC").iterdir())
        grid_of = json.loads(next((done.study / "native").glob("*generated.json")).read_text())["grid_of"]
        sources = [pydicom.dcmread(p) for p in (hospital.disc / {"t1": "S1", "t2": "S2"}[grid_of]).iterdir()]
        places = {tuple(np.round(map_(d), 3)) for d in sources for map_ in [position]}
        assert len(planes) == len(sources)
        for plane in planes:
            data = pydicom.dcmread(plane)
            assert min(np.abs(np.array(position(data)) - np.array(p)).max() for p in places) < 1e-3
            assert "SYNTHETIC" in data.SeriesDescription
        seg = pydicom.dcmread(out / hospital.name / "tumour_SEG.dcm")
        # Drawn at the middle of the brain, they must lie there in the T1 as well, wherever that was scanned.
        marked = [(k, *place) for k, plane in enumerate(seg.pixel_array) for place in np.argwhere(plane)]
        found_at = np.mean([lps_of(seg, *voxel) for voxel in marked], axis=0) * (-1, -1, 1)
        true = np.argwhere(
            resample(hospital.brain, moved(hospital.head.grid, hospital.t1.moved), hospital.t1.grid) >= 0.5
        )
        true_at = hospital.t1.grid.matrix @ np.append(true.mean(0), 1)
        assert np.linalg.norm(found_at - true_at[:3]) < 8
        voxel_ml = np.prod([SPACING] * 3) / 1000
        reference = {"t1": hospital.t1, "t2": hospital.t2}["t1"]
        own_ml = np.prod(reference.grid.spacing_mm) / 1000
        assert float(np.count_nonzero(seg.pixel_array)) * own_ml == pytest.approx(7**3 * voxel_ml, rel=0.15)
    bids = tmp_path / "bids"
    assert export_bids(done.out / "completed", bids).failed == {}
    assert list(bids.rglob("*space-orig_desc-synthetic_T1w.nii.gz"))
    assert secrets_in(bids, dicom=True) == []


def lps_of(seg, frame, row, column):
    """Place of a pixel of a multi-frame object, LPS mm."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    apart = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    start = seg.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0].ImagePositionPatient
    return np.array(start, float) + axes[0] * column * apart[1] + axes[1] * row * apart[0]


def position(data):
    return [float(v) for v in data.ImagePositionPatient]


def test_nothing_on_the_way_names_the_patient(done, hospital):
    assert secrets_in(done.out, dicom=True) == []
    assert not any(secret in repr(done.report).lower() for secret in SECRETS)


def test_the_search_for_secrets_can_fail(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "Müller"}', encoding="utf-8")
    (tmp_path / "KH-0815-4711").mkdir()
    assert {secret for _, secret in secrets_in(tmp_path, dicom=False)} >= {"müller", "0815-4711"}


def test_a_second_run_goes_on_and_a_changed_file_is_seen(hospital, done, template):
    assert studies_of_sheet(hospital.sheet, hospital.disc)[1] == []
    settings = PrepareSettings(raw=True, template=template, center="A", spacing_mm=SPACING)

    def plan():
        found = studies_of_sheet(hospital.sheet, hospital.disc)[0], LAYOUT
        return prepare_cohort(hospital.disc, done.out / "prepared", settings, dry_run=True, found=found).planned

    assert [p.status for p in plan()] == ["up to date"]
    plane = next((hospital.disc / "S2").iterdir())
    plane.touch()
    assert [p.status for p in plan()] == ["changed"]


def test_a_file_that_breaks_later_is_called_as_in_the_sheet(hospital, template, tmp_path):
    """Its path may name the patient, and that of the converted file says nothing."""
    disc = shutil.copytree(hospital.disc / "S2", tmp_path / "disc" / "S2").parent
    folder = disc / "Müller-Lüdenscheidt"
    folder.mkdir()
    write_volume(folder / "flair.nii.gz", hospital.t1.data, hospital.t1.grid)
    sheet, key = tmp_path / "sheet.csv", Key()
    write_sheet(sheet, scan_folder(disc, key), key)
    studies = studies_of_sheet(sheet, disc)[0]
    (folder / "flair.nii.gz").write_bytes(b"broken since")
    settings = PrepareSettings(raw=True, template=template, center="A", spacing_mm=SPACING)
    report = prepare_cohort(disc, tmp_path / "cohort", settings, found=(studies, LAYOUT))
    assert len(report.failed) == 2
    said = " ".join(report.failed.values())
    assert not any(secret in said.lower() for secret in SECRETS)
    assert "file:" in said  # the one that broke
    assert "dicom:" in said or "t2" in said  # a T2 alone cannot be stripped
    assert str(tmp_path) not in said


def test_messages_name_the_series_and_not_the_file_that_was_made_of_it():
    made = []

    def unpack(folder):
        made.append(folder)
        return RawStudy("P", images={"t1": folder / "t1.nii.gz"})

    def fail():
        with _unpacked(raw) as study:
            assert study.findings == ["kept"]
            raise ValueError(f"Image is bad: {study.images['t1']}. Found nothing.")

    raw = RawStudy("P", packed=Packed(unpack, (), {"t1": "dicom:0123"}), findings=["kept"])
    with pytest.raises(ValueError, match=r"^Image is bad: dicom:0123\. Found"):
        fail()
    assert not made[0].exists()


def test_an_open_sheet_is_remarked_and_an_empty_one_refused(hospital, tmp_path):
    sheet = tmp_path / "sheet.csv"
    key_path(sheet).write_bytes(key_path(hospital.sheet).read_bytes())
    text = hospital.sheet.read_text(encoding="utf-8")
    with hospital.sheet.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def written(change):
        changed = [change(dict(row)) for row in rows]
        with sheet.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(changed)
        return studies_of_sheet(sheet, hospital.disc)

    (study,), remarks = written(lambda row: row | ({"sequence": ""} if row["sequence"] == "t2" else {}))
    assert list(study.images) == ["t1"]
    assert "1 series left out" in remarks[0]
    (study,), _ = written(lambda row: row | ({"sequence": "none"} if row["sequence"] in ("t1", "t2") else {}))
    assert "has no image" in study.problems[0]
    with pytest.raises(ValueError, match="nothing to prepare"):
        written(lambda row: row | {"sequence": "none"})
    studies, _ = written(lambda row: row | ({"subject": "X", "sequence": ""} if row["sequence"] == "t2" else {}))
    assert {study.subject: bool(study.problems) for study in studies} == {
        hospital.name: False,
        f"X_{rows[0]['session']}": True,
    }
    with pytest.raises(ValueError, match="two studies one name"):
        written(lambda row: row | ({"subject": "s001_1", "session": ""} if row["sequence"] == "t2" else {}))
    with pytest.raises(ValueError, match="Brain masks are named in the sheet"):
        studies_of_sheet(hospital.sheet, hospital.disc, "mask.nii.gz")
    with pytest.raises(ValueError, match="Layout and sheet exclude each other"):
        studies_of_sheet(hospital.sheet, hospital.disc, layout="brats2018")
    studies, _ = written(lambda row: row | ({"session": "2"} if row["sequence"] == "t2" else {"session": "1"}))
    assert [s.subject.rpartition("_")[2] for s in studies] == ["1", "2"]
    assert all("One of 2 exams" in s.findings[0] for s in studies)
    assert text == hospital.sheet.read_text(encoding="utf-8")


def test_the_command_prepares_checks_and_completes(hospital, coarse_model, template, tmp_path, monkeypatch):
    model = tmp_path / "model.safetensors"
    save_model(model, coarse_model)
    told = [
        "complete",
        str(hospital.disc),
        str(tmp_path / "out"),
        "--sheet",
        str(hospital.sheet),
        "--model",
        str(model),
    ]
    result = CliRunner().invoke(app, told)
    assert result.exit_code == 2
    assert "Model does not know the center: --center. Found none" in " ".join((result.output + result.stderr).split())
    result = CliRunner().invoke(app, [*told, "--center", "A", "--template", str(template)])
    assert result.exit_code == 0, result.output + result.stderr
    said = result.output + result.stderr
    assert "contrast uptake" in " ".join(said.split())
    assert "1 studies done" in said
    assert (tmp_path / "out" / "prepared" / "checks.html").is_file()
    assert not any(secret in said.lower() for secret in SECRETS)
    assert secrets_in(tmp_path / "out", dicom=True) == []
    result = CliRunner().invoke(app, ["complete", str(hospital.disc), str(tmp_path / "x"), "--n4"])
    assert result.exit_code == 2
    assert not (tmp_path / "x").exists()
