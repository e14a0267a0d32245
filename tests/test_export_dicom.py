"""Generated series and segmentations as DICOM, read back by four readers."""

import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as itk

from export_world import ORIENTATIONS, PETRA, PROVENANCE, asymmetric, labels_on, lacking, make_enhanced, make_source
from ummgat.core.volume import Grid
from ummgat.export.deidentify import Alias, UidMap
from ummgat.export.dicom import stored, write_generated
from ummgat.export.seg import Algorithm, write_seg
from ummgat.export.wording import Wording
from ummgat.intake.headers import quiet
from ummgat.intake.privacy import Key
from ummgat.intake.scan import scan_folder


@pytest.fixture(scope="module", params=ORIENTATIONS)
def exported(request, tmp_path_factory):
    """(source, what was written, values) of a series in one of the orientations."""
    folder = tmp_path_factory.mktemp(request.param)
    source = make_source(folder / "source", request.param)
    values = asymmetric(source.grid.shape)
    return source, write_generated(values, source.grid, source, PROVENANCE, folder / "out"), values


def header_of(written, plane=0):
    return pydicom.dcmread(written.files[plane])


# ---------------------------------------------------------------- geometry and values, by four readers


def test_pydicom_reads_the_source_s_geometry_and_the_values(exported):
    source, written, values = exported
    assert len(written.files) == len(source.instances)
    for k, instance in enumerate(source.instances):
        data, original = header_of(written, k), pydicom.dcmread(instance.file)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            assert np.allclose(data[keyword].value, original[keyword].value, atol=1e-6), keyword
        assert np.array_equal(data.pixel_array.T, values[:, :, k])
        assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID


def test_simpleitk_reads_the_same_volume(exported):
    source, written, values = exported
    image = itk.ReadImage([str(path) for path in written.files])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    found = Grid.of(image.GetSize(), np.diag([-1.0, -1, 1, 1]) @ affine)
    assert found.matches(source.grid, 1e-3)
    assert np.array_equal(itk.GetArrayFromImage(image).transpose(2, 1, 0), values)


def test_simpleitk_sorts_the_folder_as_one_series(exported):
    _, written, _ = exported
    names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(written.files[0].parent))
    assert len(names) == len(written.files)


def convert(folder, out):
    import dcm2niix

    out.mkdir()
    done = subprocess.run(
        [dcm2niix.bin, "-g", "i", "-b", "y", "-z", "n", "-f", "x", "-o", str(out), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    (path,) = out.glob("*.nii")
    return nib.load(path), path.with_suffix(".json").read_text(encoding="utf-8")


def test_dcm2niix_reads_the_same_voxels_at_the_same_places(exported, tmp_path):
    source, written, values = exported
    image, sidecar = convert(written.files[0].parent, tmp_path / "nifti")
    # Every voxel center of the converted file, looked up in the source's grid.
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), -1)
    world = nib.affines.apply_affine(image.affine, voxels)
    index = nib.affines.apply_affine(np.linalg.inv(source.affine), world)
    assert np.abs((index - np.rint(index)) * source.grid.spacing_mm).max() < 1e-3
    i, j, k = np.rint(index).astype(int).transpose(3, 0, 1, 2)
    assert np.array_equal(np.asarray(image.dataobj), values[i, j, k])
    assert "SYNTHETIC" in sidecar
    assert '"RawImage": false' in sidecar


@pytest.mark.parametrize("flips", [(0,), (1,), (2,), (0, 2)])
def test_a_volume_with_other_axes_goes_to_the_same_places(tmp_path, flips):
    """As converters write: rows turned over, planes from the other end."""
    source = make_source(tmp_path / "source", "oblique")
    values = asymmetric(source.grid.shape)
    affine = source.affine
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
    turned = np.flip(values, flips).transpose(2, 0, 1)
    grid = Grid.of(turned.shape, affine[:, [2, 0, 1, 3]])
    written = write_generated(turned, grid, source, PROVENANCE, tmp_path / "out")
    assert np.array_equal(header_of(written, 5).pixel_array.T, values[:, :, 5])


def test_a_volume_that_lies_elsewhere_is_refused(tmp_path):
    source = make_source(tmp_path / "source")
    moved = source.affine
    moved[0, 3] += 0.1
    with pytest.raises(ValueError, match="does not lie on its source series: dicom:"):
        write_generated(
            asymmetric(source.grid.shape), Grid.of(source.grid.shape, moved), source, PROVENANCE, tmp_path / "out"
        )
    mirrored = source.affine
    mirrored[:3, 0] *= -1
    with pytest.raises(ValueError, match="does not lie on"):
        write_generated(
            asymmetric(source.grid.shape), Grid.of(source.grid.shape, mirrored), source, PROVENANCE, tmp_path / "out"
        )


@pytest.mark.parametrize(
    "values",
    [
        np.array([-3.5, 0.25, 1000.125]),
        np.array([0.0, 1e-6]),
        np.array([1e5, 3e5]),
        np.full(4, -2.5),
        np.array([0, 65535]),
    ],
)
def test_other_values_keep_their_size(values):
    numbers, slope, intercept = stored(values)
    assert numbers.dtype == np.uint16
    assert np.abs(numbers * slope + intercept - values).max() <= slope * 0.51
    assert slope <= max(np.ptp(np.append(values, 0.0)), 1e-9) / 65535 * 1.001 or slope == 1


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_values_that_are_no_numbers_are_refused(values):
    with pytest.raises(ValueError, match="cannot be stored"):
        stored(values)


def test_scaled_values_survive_the_readers(tmp_path):
    source = make_source(tmp_path / "source")
    values = asymmetric(source.grid.shape, dtype=np.float32) / 255 - 0.5
    written = write_generated(values, source.grid, source, PROVENANCE, tmp_path / "out")
    image = itk.ReadImage([str(path) for path in written.files], itk.sitkFloat64)
    assert np.abs(itk.GetArrayFromImage(image).transpose(2, 1, 0) - values).max() < 1e-5
    converted, _ = convert(tmp_path / "out", tmp_path / "nifti")
    assert np.abs(np.sort(converted.get_fdata().ravel()) - np.sort(values.ravel())).max() < 1e-5


# ---------------------------------------------------------------- what the header says


@pytest.mark.parametrize("keyword", ["SeriesDescription", "ImageComments", "DerivationDescription", "ProtocolName"])
def test_each_text_alone_says_synthetic(exported, keyword):
    data = header_of(exported[1])
    assert str(data[keyword].value).startswith("SYNTHETIC")


def test_the_header_says_what_from_what_by_which_model(exported):
    data = header_of(exported[1])
    assert data.SeriesDescription == "SYNTHETIC T2 from T1 by UMMGAT 0123456789abcdef"
    assert list(data.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]
    assert (data.SyntheticData, data.ContentQualification, data.BurnedInAnnotation) == ("YES", "RESEARCH", "NO")
    assert "Not a scan" in data.DerivationDescription
    assert "0123456789abcdef" in data.DerivationDescription
    assert data.Manufacturer.startswith("UMMGAT")


@pytest.mark.parametrize("alias", [None, Alias("S001", UidMap("salt"))])
def test_everything_that_an_mr_image_must_have_is_there(tmp_path, alias):
    source = make_source(tmp_path / "source")
    values = asymmetric(source.grid.shape)
    data = header_of(write_generated(values, source.grid, source, PROVENANCE, tmp_path / "out", alias=alias))
    assert lacking(data, "mr-image") == []
    del data.ScanningSequence
    assert lacking(data, "mr-image") == ["ScanningSequence"]


def test_nothing_of_the_scan_is_left(tmp_path):
    """Times, contrast agent, scanner and private attributes are the source's, not the image's."""
    changes = {"ContrastBolusAgent": "Gadobutrol", "ContrastBolusVolume": 7.5, "ContrastBolusRoute": "IV"}
    source = make_source(tmp_path / "source", sequence="t1ce", changes=changes)
    provenance = PROVENANCE | {"target": "A/t1ce", "sources": ["A/t1ce"]}
    data = header_of(
        write_generated(asymmetric(source.grid.shape), source.grid, source, provenance, tmp_path / "out"), 4
    )
    found = [e.keyword for e in data.iterall() if "Contrast" in e.keyword or e.tag.is_private]
    assert found == []
    assert "Gadobutrol" not in str(data)
    for keyword in ("RepetitionTime", "EchoTime", "InversionTime", "MagneticFieldStrength", "AcquisitionDate"):
        assert not data.get(keyword), keyword
    assert data.ScanningSequence == "RM"
    assert "PHANTOM" not in str(data)  # the scanner's maker: dcm2niix would read it anywhere in the header


def test_patient_and_study_are_those_of_the_source_and_uids_are_new(exported):
    source, written, _ = exported
    headers = [pydicom.dcmread(path) for path in written.files]
    original = pydicom.dcmread(source.files[0])
    for data in headers:
        for keyword in (*PETRA, "StudyInstanceUID", "StudyDate", "AccessionNumber", "FrameOfReferenceUID"):
            assert data[keyword].value == original[keyword].value, keyword
        (referenced,) = data.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == original.SeriesInstanceUID
    instances = {data.SOPInstanceUID for data in headers}
    assert len(instances) == len(headers)
    assert not instances & {i.sop_instance_uid for i in source.instances}
    assert {data.SeriesInstanceUID for data in headers} == {written.series_uid} != {source.series_uid}
    assert {data.file_meta.MediaStorageSOPInstanceUID for data in headers} == instances


def test_a_name_in_another_character_set_stays_whole(tmp_path):
    changes = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müßig^Jürgen"}
    source = make_source(tmp_path / "source", changes=changes)
    data = header_of(write_generated(asymmetric(source.grid.shape), source.grid, source, PROVENANCE, tmp_path / "out"))
    assert data.PatientName == "Müßig^Jürgen"


def test_values_that_break_the_standard_are_neither_quoted_nor_fatal(tmp_path, caplog):
    """Warnings of pydicom quote the value; here any warning is an error."""
    broken = {
        "PatientBirthDate": "03.02.1961",
        "PatientAge": "59 Jahre",
        "StudyTime": "morgens",
        "AccessionNumber": "Quastenflosser" * 3,
        "PatientSex": "Quastenflosser (F)",
        "StudyID": "1961" * 9,
        "PatientWeight": "66 kg",
    }
    with quiet():
        source = make_source(tmp_path / "source", changes={})
        for path in source.files:
            data = pydicom.dcmread(path)
            for keyword, value in broken.items():
                vr = pydicom.datadict.dictionary_VR(keyword)
                raw = pydicom.dataelem.RawDataElement
                tag = pydicom.tag.Tag(keyword)
                data._dict[tag] = raw(
                    tag, vr, len(value) + len(value) % 2, (value + " " * (len(value) % 2)).encode(), 0, False, True
                )
            data.save_as(path)
    for alias in (None, Alias("S001", UidMap("salt"))):
        out = tmp_path / ("plain" if alias is None else "alias")
        written = write_generated(asymmetric(source.grid.shape), source.grid, source, PROVENANCE, out, alias=alias)
        with quiet():
            data = header_of(written)
        assert [data[k].value for k in ("StudyTime", "PatientBirthDate")] == ["", ""]
        assert data.PatientID == (PETRA["PatientID"] if alias is None else "S001")
        seg = write_seg(
            labels_on(source.grid.shape), source.grid, source, out / "seg.dcm", Algorithm("a", "1"), alias=alias
        )
        assert seg.is_file()
    assert not caplog.records


def test_fused_images_name_every_source(tmp_path):
    source = make_source(tmp_path / "a")
    other = make_source(tmp_path / "b", "sagittal", "flair", series=2)
    provenance = PROVENANCE | {"sources": ["A/t1", "A/flair"], "method": "fuse"}
    data = header_of(
        write_generated(
            asymmetric(source.grid.shape), source.grid, source, provenance, tmp_path / "out", sources=[source, other]
        )
    )
    assert data.SeriesDescription == "SYNTHETIC T2 from T1+FLAIR by UMMGAT 0123456789abcdef"
    series = {item.SeriesInstanceUID: len(item.ReferencedInstanceSequence) for item in data.ReferencedSeriesSequence}
    assert series == {source.series_uid: 1, other.series_uid: len(other.instances)}
    preserved = [item.SpatialLocationsPreserved for item in data.SourceImageSequence]
    assert preserved == ["YES"] + ["NO"] * len(other.instances)


def test_intake_never_takes_a_generated_series_for_a_source(exported):
    _, written, _ = exported
    (row,) = scan_folder(written.files[0].parent, Key()).rows
    assert row.sequence == "none"
    assert any("generated" in problem for problem in row.problems)


@pytest.mark.parametrize("lost", ["target", "sources", "checkpoint_hash", "generated"])
def test_nothing_leaves_without_provenance(tmp_path, lost):
    source = make_source(tmp_path / "source")
    told = {k: v for k, v in PROVENANCE.items() if k != lost}
    with pytest.raises(ValueError, match="does not say how the image was generated"):
        write_generated(asymmetric(source.grid.shape), source.grid, source, told, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_sources_do_not_cut_the_description_short():
    names = ["A/t1", "A/t1ce", "A/flair", "A/swi", "A/dwi", "A/asl", "A/hardi"]
    wording = Wording.of(PROVENANCE | {"sources": names, "warnings": ["w" * 2000]})
    assert wording.short == "SYNTHETIC T2 from 7 sequences by UMMGAT 0123456789abcdef"
    assert len(wording.long) == 1024


def test_the_mark_is_readable_and_leaves_the_rest(tmp_path):
    source = make_source(tmp_path / "source", shape=(80, 60, 8))
    values = asymmetric(source.grid.shape)
    plane = header_of(
        write_generated(values, source.grid, source, PROVENANCE, tmp_path / "out", mark=True), 4
    ).pixel_array
    corner = plane[:7, :37]
    assert ["".join("#" if v else "." for v in row) for row in corner][1:6:2] == [
        ".###.#.#.##..###.#.#.###.###.###.###.",
        ".###..#..#.#..#..###.##...#...#..#...",
        ".###..#..#.#..#..#.#.###..#..###.###.",
    ]
    assert corner.max() == values.max()
    assert np.array_equal(plane[7:], values[:, 7:, 4].T)


def test_planes_too_small_for_the_mark_are_refused(tmp_path):
    source = make_source(tmp_path / "source", shape=(20, 30, 8))
    with pytest.raises(ValueError, match="too small for a burned-in mark"):
        write_generated(asymmetric(source.grid.shape), source.grid, source, PROVENANCE, tmp_path / "out", mark=True)


def test_a_source_that_changed_meanwhile_is_refused_without_its_path(tmp_path):
    source = make_source(tmp_path / "Quastenflosser")
    source.instances[0].file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read again: dicom:") as caught:
        write_generated(asymmetric(source.grid.shape), source.grid, source, PROVENANCE, tmp_path / "out")
    assert "Quastenflosser" not in str(caught.value)


# ---------------------------------------------------------------- multi-frame sources


@pytest.fixture
def enhanced(tmp_path):
    return make_enhanced(tmp_path / "source")


def test_a_multi_frame_source_gives_a_classic_series_that_refers_to_frames(enhanced, tmp_path):
    values = asymmetric(enhanced.grid.shape)
    written = write_generated(values, enhanced.grid, enhanced, PROVENANCE, tmp_path / "out")
    assert np.array_equal(header_of(written, 3).pixel_array.T, values[:, :, 3])
    assert header_of(written, 3).SourceImageSequence[0].ReferencedFrameNumber == enhanced.instances[3].frame + 1
    assert source_grid_of(written).matches(enhanced.grid, 1e-3)


def source_grid_of(written):
    image = itk.ReadImage([str(path) for path in written.files])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Grid.of(image.GetSize(), np.diag([-1.0, -1, 1, 1]) @ affine)
