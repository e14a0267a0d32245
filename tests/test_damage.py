"""Files damaged in a single bit: refused, or the same voxels at the same place; never others."""

import gzip

import numpy as np
import pytest

from bad_nifti import brain, save
from phantom_dicom import axes
from test_intake_files import itk_image
from ummgat.core.volume import read_volume
from ummgat.intake.images import read_itk

VARIANTS = 120
"""Flips tried for each format."""


def packed_nrrd(path, image):
    """NRRD with gzip, whatever this build of ITK writes by default."""
    plain = itk_image(path.with_name("plain.nrrd"), image, axes("oblique"), useCompression=False)
    head, _, voxels = plain.read_bytes().partition(b"\n\n")
    path.write_bytes(head.replace(b"encoding: raw", b"encoding: gzip") + b"\n\n" + gzip.compress(voxels))
    return path


def made(path):
    """A file of the format that its suffix says, and what reads it."""
    image = np.rint(brain(1)).astype(np.int16)
    if path.name.endswith(".nii.gz"):
        return save(path, image), read_volume
    if path.suffix == ".mha":
        return itk_image(path, image, axes("oblique"), useCompression=True), read_itk
    return packed_nrrd(path, image), read_itk


def first_packed(content, name):
    """Offset of the first byte that a checksum covers: text headers have none."""
    if name.endswith(".nii.gz"):
        return 0
    mark = b"ElementDataFile = LOCAL\n" if name.endswith(".mha") else b"\n\n"
    return content.index(mark) + len(mark)


@pytest.mark.parametrize("name", ["t1.nii.gz", "t1.mha", "t1.nrrd"])
def test_a_flipped_bit_gives_no_other_voxels(tmp_path, name):
    path, read = made(tmp_path / name)
    before, grid = read(path)
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(VARIANTS):
        broken = bytearray(content)
        broken[rng.integers(first_packed(content, name), len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            after, there = read(path)
        except ValueError as error:
            refused += name in str(error)
            continue
        np.testing.assert_array_equal(after, before)
        assert there.matches(grid)
    assert refused > 0.9 * VARIANTS  # only names and times in the header of gzip change nothing


@pytest.mark.parametrize("name", ["t1.nii.gz", "t1.mha", "t1.nrrd"])
@pytest.mark.parametrize("lost", [1, 4, 8, 200])
def test_a_lost_end_is_no_image(tmp_path, name, lost):
    path, read = made(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        read(path)


def test_a_file_that_unpacks_to_far_more_than_it_says_is_not_unpacked(tmp_path):
    path = save(tmp_path / "t1.nii.gz", np.rint(brain(1)).astype(np.int16))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 28)))
    with pytest.raises(ValueError, match=r"more than its header says: .*t1\.nii\.gz"):
        read_volume(path)
