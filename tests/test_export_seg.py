"""Label maps as DICOM SEG, read back by highdicom."""

import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as itk

from export_world import ORIENTATIONS, PETRA, labels_on, lacking, make_enhanced, make_source
from ummgat.core.volume import Grid
from ummgat.export.seg import Algorithm, write_seg

UNET = Algorithm("UMMGAT U-Net", "1")


def read_seg(path, n_segments):
    import highdicom

    seg = highdicom.seg.segread(path)
    volume = seg.get_volume(combine_segments=False)
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    return seg, volume.array, affine


def assert_same_places(source, labels, values, array, affine):
    """Every voxel that highdicom finds of each segment is that of the label map, and no other."""
    for segment, value in enumerate(values):
        index = np.argwhere(array[..., segment])
        world = nib.affines.apply_affine(affine, index)
        voxels = nib.affines.apply_affine(np.linalg.inv(source.affine), world)
        assert np.abs((voxels - np.rint(voxels)) * source.grid.spacing_mm).max() < 1e-3
        found = {tuple(v) for v in np.rint(voxels).astype(int)}
        assert found == {tuple(v) for v in np.argwhere(labels == value)}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_highdicom_reads_every_label_where_it_was(tmp_path, name):
    source = make_source(tmp_path / "source", name)
    labels = labels_on(source.grid.shape)
    path = write_seg(labels, source.grid, source, tmp_path / "seg.dcm", UNET, generated=("t2",))
    seg, array, affine = read_seg(path, 3)
    assert_same_places(source, labels, (1, 2, 3), array, affine)
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.series_uid
    assert {i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence} == {
        i.sop_instance_uid for i in source.instances
    }


def test_segments_are_coded_and_say_what_drew_them(tmp_path):
    source = make_source(tmp_path / "source")
    path = write_seg(labels_on(source.grid.shape), source.grid, source, tmp_path / "seg.dcm", UNET, generated=("t2",))
    data = pydicom.dcmread(path)
    codes = [s.SegmentedPropertyTypeCodeSequence[0] for s in data.SegmentSequence]
    assert [(c.CodingSchemeDesignator, c.CodeValue, c.CodeMeaning) for c in codes] == [
        ("SCT", "6574001", "Necrosis"),
        ("SCT", "79654002", "Edema"),
        ("NCIt", "C113842", "Enhancing Lesion"),
    ]
    assert {s.SegmentAlgorithmType for s in data.SegmentSequence} == {"AUTOMATIC"}
    assert {s.SegmentAlgorithmName for s in data.SegmentSequence} == {"UMMGAT U-Net"}
    assert data.SeriesDescription == "Tumour by UMMGAT U-Net, study completed with SYNTHETIC T2"
    assert (data.ContentQualification, data.PatientName, data.Modality) == ("RESEARCH", PETRA["PatientName"], "SEG")
    assert itk.ReadImage(str(path)).GetSize()[:2] == source.grid.shape[:2]


def test_a_whole_tumour_is_one_neoplasm(tmp_path):
    source = make_source(tmp_path / "source")
    labels = (labels_on(source.grid.shape) > 0).astype(np.uint8) * 2
    path = write_seg(labels, source.grid, source, tmp_path / "seg.dcm", UNET, regions="wt")
    (segment,) = pydicom.dcmread(path).SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    _, array, affine = read_seg(path, 1)
    assert_same_places(source, labels, (2,), array, affine)


def test_everything_that_a_segmentation_must_have_is_there(tmp_path):
    source = make_source(tmp_path / "source")
    path = write_seg(labels_on(source.grid.shape), source.grid, source, tmp_path / "seg.dcm", UNET)
    assert lacking(pydicom.dcmread(path), "segmentation") == []


def test_a_segmentation_of_a_multi_frame_source(tmp_path):
    enhanced = make_enhanced(tmp_path / "source")
    labels = labels_on(enhanced.grid.shape)
    path = write_seg(labels, enhanced.grid, enhanced, tmp_path / "seg.dcm", UNET)
    _, array, affine = read_seg(path, 3)
    assert_same_places(enhanced, labels, (1, 2, 3), array, affine)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda labels: labels * 0, "no label at all"),
        (lambda labels: labels + 1, "Found 4"),
        (lambda labels: labels[1:], "does not lie on its source series"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(tmp_path, change, match):
    source = make_source(tmp_path / "source")
    labels = change(labels_on(source.grid.shape))
    grid = Grid.of(labels.shape, source.affine)
    with pytest.raises(ValueError, match=match):
        write_seg(labels, grid, source, tmp_path / "seg.dcm", UNET)
    with pytest.raises(ValueError, match="Algorithm of the segmentation is unknown"):
        write_seg(labels, grid, source, tmp_path / "seg.dcm", Algorithm(" ", "1"))


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    source = make_source(tmp_path / "source")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ValueError, match=r"pip install ummgat\[dicom\]"):
        write_seg(labels_on(source.grid.shape), source.grid, source, tmp_path / "seg.dcm", UNET)


def test_what_highdicom_says_of_a_header_is_not_passed_on(tmp_path, monkeypatch):
    import highdicom

    def refuse(**_):
        raise ValueError("Quastenflosser is no date")

    source = make_source(tmp_path / "source")
    monkeypatch.setattr(highdicom.seg, "Segmentation", refuse)
    with pytest.raises(ValueError, match="Found ValueError in highdicom") as caught:
        write_seg(labels_on(source.grid.shape), source.grid, source, tmp_path / "seg.dcm", UNET)
    assert "Quastenflosser" not in str(caught.value)
    assert caught.value.__suppress_context__
