import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import bad_nifti as bad
from ummgat.core.volume import Grid, in_order_of, read_grid, read_volume, resample, resample_inside, write_volume


def rotated(degrees, spacing=(1.0, 1.0, 1.0), origin=(5.0, -3.0, 2.0)):
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] = affine[:3, :3] * spacing
    affine[:3, 3] = origin
    return affine


def world_center(data, grid):
    """Center of mass in world mm."""
    return grid.matrix[:3, :3] @ ndimage.center_of_mass(data) + grid.matrix[:3, 3]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a b ü.nii.gz"])
def test_read_returns_what_was_written(tmp_path, name):
    data = bad.brain()
    grid = Grid.of(data.shape, bad.LPS)
    write_volume(tmp_path / name, data, grid)
    read, read_on = read_volume(tmp_path / name)
    assert np.array_equal(read, data)
    assert read_on == grid == read_grid(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_trailing_axis_of_length_one_is_dropped(tmp_path):
    bad.save(tmp_path / "a.nii.gz", bad.brain()[..., None])
    assert read_volume(tmp_path / "a.nii.gz")[0].shape == bad.SHAPE


def test_scale_factor_is_applied(tmp_path):
    image = nib.Nifti1Image(bad.brats_labels(), bad.LPS)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii")[0].max() == 12


def missing(path):
    return path


def foreign(path):
    path.write_text("not an image at all" * 50)


def empty_file(path):
    path.write_bytes(b"")


def four_d(path):
    bad.save(path, np.zeros((4, 5, 6, 3), np.float32))


def two_d(path):
    bad.save(path, np.ones((4, 5), np.float32))


def cut_short(path):
    bad.truncate(bad.save(path, bad.brain()))


def cut_in_header(path):
    bad.truncate(bad.save(path, bad.brain()), 0.005)


def claims_too_much(path):
    bad.claim_shape(bad.save(path, bad.brain()), (30000, 30000, 30000))


def no_voxels(path):
    bad.claim_shape(bad.save(path, bad.brain()), (20, 0, 18))


def not_numbers(path):
    data = bad.brain()
    data[3, 3, :2] = np.nan, np.inf
    bad.save(path, data)


def colour(path):
    bad.save(path, np.zeros(bad.SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def complex_numbers(path):
    bad.save(path, bad.brain().astype(np.complex64))


def flat_geometry(path):
    image = nib.Nifti1Image(bad.brain(), None)
    image.header["sform_code"] = 1
    image.header["srow_x"] = [1, 0, 0, 0]
    image.header["srow_y"] = [1, 0, 0, 0]
    image.header["srow_z"] = [0, 0, 1, 0]
    image.header["magic"], image.header["vox_offset"] = b"n+1", 352
    content = image.header.binaryblock + b"\0" * 4 + bad.brain().tobytes("F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, "Image is missing"),
        (foreign, "not readable as NIfTI"),
        (empty_file, "not readable as NIfTI"),
        (four_d, "not a single volume.*(4, 5, 6, 3)"),
        (two_d, "not a single volume"),
        (cut_short, "truncated"),
        (cut_in_header, "not readable as NIfTI"),
        (claims_too_much, "claims more data than the file can hold"),
        (no_voxels, "not a single volume"),
        (not_numbers, "2 NaN or infinite"),
        (colour, "not grey-scale"),
        (complex_numbers, "not grey-scale"),
        (flat_geometry, "no usable geometry"),
    ],
)
@pytest.mark.parametrize("name", ["bad.nii", "bad.nii.gz"])
def test_broken_file_is_refused_by_name(tmp_path, make, says, name):
    make(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_volume(tmp_path / name)
    message = str(caught.value)
    assert name in message
    assert "expected" in message
    assert all(part in message for part in says.split(".*"))


def test_canonical_grid_is_isotropic_ras_over_the_same_field_of_view():
    grid = Grid.of((20, 24, 18), np.diag([-1.0, -2, 3, 1]) + np.array([[0, 0, 0, 7.0], [0] * 4, [0] * 4, [0] * 4]))
    new = grid.canonical(1.0)
    assert new.spacing_mm == (1, 1, 1)
    assert new.shape == (20, 48, 54)
    assert nib.aff2axcodes(new.matrix) == ("R", "A", "S")
    low = new.matrix @ [-0.5, -0.5, -0.5, 1]
    assert np.allclose(low[:3], [7 - 19.5, -2 * 23.5, -1.5])  # the outer corner of the last x, last y and first z voxel


def test_canonical_grid_of_itself_is_itself():
    grid = Grid.of((20, 24, 18), rotated(20)).canonical(1.5)
    assert grid.matches(grid.canonical(1.5))


def test_grids_match_only_where_every_voxel_lies_at_the_same_place():
    grid = Grid.of((20, 24, 18), np.eye(4))
    shifted, tilted = np.eye(4), np.eye(4)
    shifted[0, 3] = 0.02
    tilted[0, 1] = 0.001
    assert grid.matches(Grid.of((20, 24, 18), np.eye(4) + 1e-5))
    assert not grid.matches(Grid.of((20, 24, 18), shifted))
    assert not grid.matches(Grid.of((20, 24, 18), tilted))
    assert not grid.matches(Grid.of((20, 24, 17), np.eye(4)))


def test_halving_resolution_averages_neighbours():
    data = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    grid = Grid.of(data.shape, np.eye(4))
    small = resample(data, grid, grid.canonical(2.0))
    assert np.allclose(small, data.reshape(2, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5)))


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.6, 2.0])
def test_fast_path_equals_the_general_transform(spacing):
    data = bad.brain()
    source = Grid.of(data.shape, np.diag([1.1, 0.9, 1.3, 1]))
    target = source.canonical(spacing)
    mapping = np.linalg.inv(source.matrix) @ target.matrix
    general = ndimage.affine_transform(
        data, mapping[:3, :3], mapping[:3, 3], target.shape, order=1, mode="grid-constant", cval=0
    )
    assert np.allclose(resample(data, source, target), general, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1])
def test_resampling_keeps_places_on_an_oblique_grid(order):
    blob = bad.ellipsoid(center=(7, 14, 11), radii=(3, 4, 3)).astype(np.float32)
    source = Grid.of(blob.shape, rotated(25, (1.0, 1.2, 1.5)))
    target = Grid.of((40, 40, 30), rotated(-10, (0.9, 0.9, 0.9), (-12, -8, 0)))
    moved = resample(blob, source, target, order)
    assert moved.sum() > 0
    assert np.allclose(world_center(moved, target), world_center(blob, source), atol=0.1 if order else 0.2)


def test_resample_to_the_same_grid_is_a_copy():
    data = bad.brats_labels()
    grid = Grid.of(data.shape, bad.LPS)
    out = resample(data, grid, grid, order=0)
    assert out.dtype == np.uint8
    assert not np.shares_memory(out, data)


def test_inside_resampling_does_not_darken_the_edge():
    mask = bad.ellipsoid()
    grid = Grid.of(mask.shape, np.eye(4))
    out = resample_inside(np.where(mask, 100, 7), mask, grid, grid.canonical(1.7))
    assert set(np.unique(out.round(3))) == {0, 100}


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SLA"])
def test_voxels_are_put_in_the_order_of_another_grid(axes):
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    image = nib.Nifti1Image(data.astype(np.int16), rotated(20, (1.0, 2.0, 3.0)))
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes)))
    other = image.as_reoriented(turn)
    grids = [Grid.of(i.shape, i.affine) for i in (other, image)]
    np.testing.assert_array_equal(in_order_of(np.asarray(other.dataobj), *grids), data)


def test_grids_with_other_voxels_have_no_order():
    grid = Grid.of((2, 3, 4), rotated(0))
    with pytest.raises(ValueError, match="Grids differ"):
        in_order_of(np.zeros((2, 3, 4)), grid, Grid.of((2, 3, 4), rotated(0, origin=(5.02, -3.0, 2.0))))
    with pytest.raises(ValueError, match="Grids differ"):
        in_order_of(np.zeros((2, 3, 4)), grid, Grid.of((2, 3, 5), rotated(0)))


def test_a_description_goes_into_the_header_as_far_as_it_holds(tmp_path):
    grid = Grid.of((2, 2, 2), np.eye(4))
    write_volume(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8), grid, "ü" + "x" * 100)
    assert bytes(nib.load(tmp_path / "a.nii").header["descrip"]) == b"?" + b"x" * 78 + b"\0"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("sform", "refused"), [(0, True), (1, False)])
def test_zero_voxel_sizes_count_where_the_geometry_rests_on_them(tmp_path, packed, sform, refused):
    """Nibabel takes them for 1 mm without a word to the caller."""
    path = bad.save(tmp_path / "a.nii", bad.brain())
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, 80, 0, 0, 0)
    struct.pack_into("<2h", content, 252, 1, sform)
    if packed:
        path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    if refused:
        with pytest.raises(ValueError, match=r"no usable geometry: .*Found voxel size \(0\.0, 0\.0, 0\.0\) mm"):
            read_grid(path)
    else:
        assert read_grid(path).spacing_mm == (1, 1, 1)
