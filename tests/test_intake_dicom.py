"""DICOM of every kind: sorted into volumes on the right grid, or refused with a reason."""

import shutil

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")

from phantom_dicom import NAMED, axes, lopsided, same_place
from ummgat.core.volume import read_volume
from ummgat.intake import convert as converting
from ummgat.intake.convert import convert
from ummgat.intake.privacy import Key
from ummgat.intake.scan import scan_folder
from ummgat.phantom.dicom import write_enhanced, write_series

KINDS = ("axial", "axial from above", "mirrored", "sagittal", "coronal", "oblique")


def scan(folder):
    return scan_folder(folder, Key("00" * 16))


def only(folder):
    """The one row of a folder."""
    (row,) = scan(folder).rows
    return row


def source(row):
    return row.stack.source(row.series, row.subject, row.session)


def write(folder, **options):
    """The lopsided volume as an axial T2."""
    image = lopsided(options.pop("seed", 0))
    return write_series(image, axes("axial"), folder, sequence=options.pop("sequence", "t2"), **options)


def edit(path, **changes):
    """Change fields of a file."""
    data = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    data.save_as(path)


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tool", ["dcm2niix", "pydicom", "SimpleITK"])
def test_every_voxel_comes_to_lie_where_the_scanner_saw_it(tmp_path, kind, tool):
    image, affine = lopsided(), axes(kind)
    write_series(image, affine, tmp_path / "in", sequence="t2")
    done = convert(source(only(tmp_path / "in")), tmp_path / "out.nii", (tool,))
    assert done.tool == tool
    same_place(image, affine, done.path)


def test_the_check_of_places_can_fail(tmp_path):
    image, affine = lopsided(), axes("axial")
    write_series(image[::-1], affine, tmp_path / "in", sequence="t2")
    done = convert(source(only(tmp_path / "in")), tmp_path / "out.nii")
    with pytest.raises(AssertionError):
        same_place(image, affine, done.path)


def test_planes_go_back_to_their_files(tmp_path):
    image = lopsided()
    paths = write_series(image, axes("axial from above"), tmp_path / "in", sequence="t2")
    series = source(only(tmp_path / "in"))
    assert [i.file for i in series.instances] == [p.resolve() for p in reversed(paths)] == series.files
    done = convert(series, tmp_path / "out.nii.gz")
    data, grid = read_volume(done.path)
    assert grid.matches(series.grid, 1e-3)
    for k in (0, 4, 11):
        header = pydicom.dcmread(series.instances[k].file)
        np.testing.assert_array_equal(header.pixel_array.T, data[:, :, k])
        first = (series.affine @ [0, 0, k, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(first, header.ImagePositionPatient, atol=1e-3)
        assert header.SOPInstanceUID == series.instances[k].sop_instance_uid


def test_a_sidecar_keeps_uids_and_geometry_but_no_path(tmp_path):
    write(tmp_path / "Müller" / "in", patient=NAMED)
    series = source(only(tmp_path))
    record = series.as_record()
    assert len(record["instances"]) == 12
    assert record["affine_ras_mm"] == [list(row) for row in series.grid.affine]
    assert "Müller" not in str(record)
    assert "IM0" not in str(record)


@pytest.mark.parametrize("tool", ["dcm2niix", "pydicom"])
@pytest.mark.parametrize("kind", ["axial from above", "oblique"])
def test_enhanced_multi_frame(tmp_path, kind, tool):
    image, affine = lopsided(), axes(kind)
    write_enhanced(image, affine, tmp_path / "in" / "E1", sequence="t2")
    row = only(tmp_path / "in")
    assert (row.kind, row.sequence) == ("enhanced DICOM", "t2")
    assert sorted(i.frame for i in source(row).instances) == list(range(12))
    done = convert(source(row), tmp_path / "out.nii", (tool,))
    same_place(image, affine, done.path)


def test_a_tool_that_flips_is_found_out(tmp_path, monkeypatch):
    """Voxels mirrored under an unchanged affine: the worst that could happen."""
    write(tmp_path / "in")

    def mirrored(path):
        data, grid = read_volume(path)
        return data[::-1], grid

    monkeypatch.setattr(converting, "read_volume", mirrored)
    done = convert(source(only(tmp_path / "in")), tmp_path / "out.nii")
    assert done.tool == "pydicom"
    same_place(lopsided(), axes("axial"), done.path)


def test_a_tool_that_moves_is_found_out(tmp_path, monkeypatch):
    write(tmp_path / "in")

    def moved(path):
        data, grid = read_volume(path)
        matrix = grid.matrix
        matrix[0, 3] += 2e-3
        return data, type(grid).of(grid.shape, matrix)

    monkeypatch.setattr(converting, "read_volume", moved)
    with pytest.raises(ValueError, match="another geometry"):
        convert(source(only(tmp_path / "in")), tmp_path / "out.nii", ("dcm2niix",))
    assert not (tmp_path / "out.nii").exists()


def test_every_plane_has_its_own_scale(tmp_path):
    """Some scanners rescale plane by plane."""
    for k, path in enumerate(write(tmp_path / "in")):
        edit(path, RescaleSlope=1 + 0.5 * k, RescaleIntercept=10)
    done = convert(source(only(tmp_path / "in")), tmp_path / "out.nii")
    same_place(lopsided() * (1 + 0.5 * np.arange(12)) + 10, axes("axial"), done.path)


def compress(path, how):
    """Store the pixels compressed, by pydicom or, with the compressions it cannot write, by SimpleITK."""
    data = pydicom.dcmread(path)
    if how in ("JPEG", "JPEG2000"):
        itk = pytest.importorskip("SimpleITK")
        writer = itk.ImageFileWriter()
        writer.SetFileName(f"{path}.dcm")
        writer.SetUseCompression(True)
        writer.SetCompressor(how)
        writer.Execute(itk.ReadImage(str(path)))
        packed = pydicom.dcmread(f"{path}.dcm")
        path.with_name(f"{path.name}.dcm").unlink()
        for keyword in ("PixelData", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            setattr(data, keyword, getattr(packed, keyword))
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    else:
        data.compress(getattr(pydicom.uid, how), generate_instance_uid=False)
    data.save_as(path)
    assert data.file_meta.TransferSyntaxUID.is_compressed


@pytest.mark.parametrize("how", ["RLELossless", "JPEGLSLossless", "JPEG", "JPEG2000"])
def test_compressed_planes(tmp_path, how):
    for path in write(tmp_path / "in"):
        compress(path, how)
    row = only(tmp_path / "in")
    assert row.sequence == "t2"
    same_place(lopsided(), axes("axial"), convert(source(row), tmp_path / "out.nii").path)


@pytest.mark.parametrize("how", ["RLELossless", "JPEG"])
def test_a_tool_that_flips_compressed_planes_is_found_out(tmp_path, monkeypatch, how):
    for path in write(tmp_path / "in"):
        compress(path, how)
    monkeypatch.setattr(converting, "read_volume", lambda path: (read_volume(path)[0][::-1], read_volume(path)[1]))
    with pytest.raises(ValueError, match="other voxels than the files hold"):
        convert(source(only(tmp_path / "in")), tmp_path / "out.nii", ("dcm2niix",))


def test_a_compression_that_nobody_knows_is_refused(tmp_path):
    for path in write(tmp_path / "in"):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        data.PixelData = pydicom.encaps.encapsulate([b"\0" * 600])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
    row = only(tmp_path / "in")
    with pytest.raises(ValueError, match=r"Series cannot be converted: dicom:.*dcm2niix.*pydicom.*SimpleITK"):
        convert(source(row), tmp_path / "out.nii")
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path / "in")
    (tmp_path / "out.nii").write_text("mine")
    with pytest.raises(FileExistsError):
        convert(source(only(tmp_path / "in")), tmp_path / "out.nii")
    assert (tmp_path / "out.nii").read_text() == "mine"


# ---------------------------------------------------------------- who is who


def test_patients_in_one_folder_are_told_apart(tmp_path):
    for seed, patient in enumerate((NAMED, {"PatientID": "2"}, {"PatientID": "3", "PatientName": ""})):
        for n, path in enumerate(write(tmp_path / "x", seed=seed, patient=patient)):
            path.rename(tmp_path / f"{seed}-{n}")
    rows = scan(tmp_path).rows
    assert sorted(row.subject for row in rows) == ["S001", "S002", "S003"]
    assert {len(row.stack.planes) for row in rows} == {12}


def test_spelling_does_not_make_another_patient(tmp_path):
    write(tmp_path / "a", patient=NAMED)
    other = NAMED | {"PatientName": "MULLER LUDENSCHEIDT^JURGEN^"}
    write(tmp_path / "b", patient=other, sequence="t1", series=2)
    assert {row.subject for row in scan(tmp_path).rows} == {"S001"}


def test_one_id_with_two_names_is_remarked(tmp_path):
    write(tmp_path / "a", patient=NAMED)
    write(tmp_path / "b", patient=NAMED | {"PatientName": "Else^Any"})
    a, b = scan(tmp_path).rows
    assert f"shares its ID with {b.subject}" in a.findings
    assert f"shares its ID with {a.subject}" in b.findings


def test_without_identity_each_exam_is_a_subject(tmp_path):
    nobody = {"PatientName": "", "PatientID": "", "PatientBirthDate": ""}
    for study in (1, 2):
        for series, sequence in enumerate(("t1", "t2"), 1):
            write(
                tmp_path / f"{study}{series}",
                patient=nobody,
                study=study,
                series=series,
                sequence=sequence,
                seed=series,
            )
    rows = scan(tmp_path).rows
    assert [row.subject for row in rows] == ["S001", "S001", "S002", "S002"]
    assert all("names no patient" in row.findings for row in rows)


def test_exams_are_numbered_by_date(tmp_path):
    write(tmp_path / "a", study=2, seed=1)
    write(tmp_path / "b", study=1, seed=2)
    first, second = scan(tmp_path).rows
    assert (first.session, second.session) == ("1", "2")
    assert first.stack.first.started < second.stack.first.started


# ---------------------------------------------------------------- what is refused or remarked


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"PixelSpacing": [0, 0]}, "voxel size missing or zero"),
        ({"PixelSpacing": None}, "voxel size missing or zero"),
        ({"ImagePositionPatient": None}, "without position or orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.2, 0.9, 0]}, "right angles"),
        ({"Modality": "CT"}, "not MR"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "not plain grey"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "not plain grey"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SeriesDescription": "SYNTHETIC t1ce"}, "generated"),
        ({"ImagePositionPatient": [1, 2, 3]}, "12 planes at 1 positions"),
        ({"Rows": 60000, "Columns": 60000}, "7200000000 bytes of pixels"),
        ({"SOPInstanceUID": "1.2.3"}, "share the UID"),
    ],
)
def test_unusable_series_say_why(tmp_path, changes, problem):
    write(tmp_path, changes=changes)
    row = only(tmp_path)
    assert row.sequence == "none"
    assert problem in row.findings
    with pytest.raises(ValueError, match=r"Series cannot be used: dicom:"):
        source(row)


def test_missing_planes(tmp_path):
    paths = write(tmp_path)
    paths[5].unlink()
    paths[6].unlink()
    assert only(tmp_path).problems == ["missing planes: 2 in 1 gaps of up to 12 mm where steps are 4 mm"]


def test_announced_planes_that_are_not_there(tmp_path):
    paths = write(tmp_path, changes={"ImagesInAcquisition": 12})
    assert only(tmp_path).findings == ""
    paths[-1].unlink()
    assert "announces 12 planes, 1 more" in only(tmp_path).findings


def test_a_plane_off_the_line(tmp_path):
    path = write(tmp_path)[4]
    x, y, z = pydicom.dcmread(path).ImagePositionPatient
    edit(path, ImagePositionPatient=[x, y, z + 1.0])
    assert "uneven steps" in only(tmp_path).findings
    edit(path, ImagePositionPatient=[x + 1.0, y, z])
    assert "off a regular stack" in only(tmp_path).findings


@pytest.mark.parametrize(("degrees", "refused"), [(10.0, True), (1.0, True), (0.05, False)])
def test_gantry_tilt(tmp_path, degrees, refused):
    affine = axes("axial")
    affine[1, 2] = 4 * np.tan(np.radians(degrees))
    write_series(lopsided(), affine, tmp_path / "in", sequence="t2")
    row = only(tmp_path / "in")
    assert ("sheared" in row.findings) == refused
    if not refused:  # so little that the planes are used, each where its header puts it
        same_place(lopsided(), affine, convert(source(row), tmp_path / "out.nii").path)


def test_localizer_of_three_directions(tmp_path):
    for n, kind in enumerate(("axial", "sagittal", "coronal")):
        for k, path in enumerate(write_series(lopsided(), axes(kind), tmp_path / "x", sequence="t2")[:3]):
            edit(path, SOPInstanceUID=f"1.2.{n + 1}.{k}", SeriesDescription="t2")
            path.rename(tmp_path / f"{n}{k}")
    shutil.rmtree(tmp_path / "x")
    rows = scan(tmp_path).rows
    assert len(rows) == 3
    assert all("few planes in several directions" in row.findings for row in rows)


def test_too_few_planes(tmp_path):
    for path in write(tmp_path)[7:]:
        path.unlink()
    assert only(tmp_path).problems == ["only 7 planes, too few to show a brain"]


def test_derived_images_are_not_taken_unasked(tmp_path):
    write(tmp_path, changes={"ImageType": ["DERIVED", "SECONDARY", "MPR"]})
    row = only(tmp_path)
    assert (row.sequence, row.proposal, row.sure) == ("", "t2", "likely")
    assert "derived" in row.findings


def test_echoes_and_b_values_are_volumes_of_their_own(tmp_path):
    for n, b in enumerate((0.0, 1000.0)):
        for k, path in enumerate(write(tmp_path / "x", sequence="dwi", changes={"DiffusionBValue": b}, seed=n)):
            edit(path, SOPInstanceUID=f"1.2.{n + 1}.{k}")
            path.rename(tmp_path / f"{n}-{k}")
    rows = {row.stack.first.facts.b_value: row for row in scan(tmp_path).rows}
    assert (rows[0.0].sequence, rows[1000.0].sequence) == ("", "dwi")
    assert rows[0.0].series != rows[1000.0].series
    assert "one of 2 volumes" in rows[0.0].findings


def test_copied_files_count_once(tmp_path):
    write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    row = only(tmp_path)
    assert (row.sequence, row.grid.shape) == ("t2", (16, 20, 12))
    assert "12 planes are there twice" in row.findings


def test_a_series_sent_twice_is_used_once(tmp_path):
    write(tmp_path / "a", series=1)
    write(tmp_path / "b", series=2)
    first, second = scan(tmp_path).rows
    assert (first.sequence, second.sequence) == ("t2", "none")
    assert f"the same voxels as {first.series}" in second.findings


def test_one_series_under_two_names_is_asked_about(tmp_path):
    write(tmp_path / "a", series=1)
    write(tmp_path / "b", series=2, sequence="flair")
    assert [row.sequence for row in scan(tmp_path).rows] == ["", ""]
    assert all("mislabelled" in row.findings for row in scan(tmp_path).rows)


def test_two_candidates_are_asked_about(tmp_path):
    write(tmp_path / "a", series=1)
    write(tmp_path / "b", series=2, seed=1)
    rows = scan(tmp_path).rows
    assert [row.sequence for row in rows] == ["", ""]
    assert rows[1].series in rows[0].findings


def test_contrast_is_told_by_the_order_of_series(tmp_path):
    unsaid = {"SeriesDescription": "t1_se_tra", "ProtocolName": "t1"}
    write(tmp_path / "a", sequence="t1", series=2, seed=1, changes=unsaid)
    assert [row.sequence for row in scan(tmp_path).rows] == [""]
    write(tmp_path / "b", sequence="t1ce", series=5, seed=2)
    assert [row.sequence for row in scan(tmp_path).rows] == ["t1", "t1ce"]
    write(tmp_path / "c", sequence="t1", series=7, seed=3, changes=unsaid)
    before, given, after = scan(tmp_path).rows
    assert [before.sequence, given.sequence, after.sequence] == ["t1", "t1ce", "none"]
    assert (after.proposal, after.sure) == ("t1ce", "likely")
    assert "after contrast agent was given" in after.why
    assert "only likely, not sure" in after.findings


# ---------------------------------------------------------------- what is no image, or broken


def test_other_objects_and_broken_files_are_counted(tmp_path):
    paths = write(tmp_path)
    data = pydicom.dcmread(paths[0])
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(data, keyword)
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    data.save_as(tmp_path / "report")
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(tmp_path / "DICOMDIR")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut").write_bytes(paths[1].read_bytes()[:300])
    (tmp_path / "noise.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 4)
    (tmp_path / "letter.pdf").write_bytes(b"%PDF")
    (tmp_path / "notes").write_text("no image at all, but a text that is longer than the preamble of DICOM" * 3)
    found = scan(tmp_path)
    assert [row.sequence for row in found.rows] == ["t2"]
    text = "\n".join(found.remarks)
    assert "Basic Text SR Storage holds no image" in text
    assert "DICOMDIR" in text
    assert "2 files left out: of other kinds" in text
    assert {path.name for path in found.damaged} == {"empty.dcm", "cut", "noise.dcm"}


def test_truncated_pixels(tmp_path):
    paths = write(tmp_path)
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    (problem,) = only(tmp_path).problems
    assert (
        problem
        == "1 of 12 planes cannot be read: the header claims 640 bytes of pixels, the file holds 540: truncated or "
        "damaged"
    )


def test_files_without_preamble_are_read(tmp_path):
    for path in write(tmp_path / "in"):
        data = pydicom.dcmread(path)
        del data.file_meta
        data.preamble = None
        pydicom.dcmwrite(path, data, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    row = only(tmp_path / "in")
    same_place(lopsided(), axes("axial"), convert(source(row), tmp_path / "out.nii").path)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_headers_never_stop_the_scan(tmp_path, seed):
    """Random bytes overwritten: whatever pydicom makes of it, the other series is listed."""
    rng = np.random.default_rng(seed)
    write(tmp_path / "good", series=1)
    for path in write(tmp_path / "bad", series=2, seed=1):
        content = bytearray(path.read_bytes())
        for place in rng.integers(132, len(content) - 660, 6):
            content[place] = rng.integers(0, 256)
        path.write_bytes(bytes(content))
    assert "t2" in {row.proposal for row in scan(tmp_path).rows}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No image found"):
        scan(tmp_path)
    with pytest.raises(FileNotFoundError, match="Source folder is missing"):
        scan(tmp_path / "nowhere")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ValueError, match=r"Package is missing: pydicom.*pip install ummgat\[dicom\]"):
        scan(tmp_path)
