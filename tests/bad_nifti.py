"""Small NIfTI studies, good and broken, for tests."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (20, 24, 18)
LPS = np.array([[-1.0, 0, 0, 19], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])
"""The orientation of BraTS files. Its voxels start at world (19, 23, 0) mm."""
RAS = np.eye(4)


def ellipsoid(shape=SHAPE, center=None, radii=None):
    """Bool mask (x, y, z)."""
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    center = [(n - 1) / 2 for n in shape] if center is None else center
    radii = [0.4 * n for n in shape] if radii is None else radii
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True)) <= 1


def brain(seed=0, shape=SHAPE):
    """Float32 brain (x, y, z) on exact zero: smooth, noisy, brighter towards high x, y and z, so that no flip goes
    unseen.
    """
    mask = ellipsoid(shape)
    x, y, z = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    noise = np.random.default_rng(seed).uniform(0, 5, shape)
    return np.where(mask, 50 + 40 * x + 30 * y + 20 * z + (1 + seed % 3) * noise, 0).astype(np.float32)


def save(path, data, affine=LPS):
    """Write `data` (x, y, z) as NIfTI, making folders as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def brats_labels(values=(1, 2, 4)):
    """uint8 annotation (x, y, z) with a block of each value inside the brain."""
    labels = np.zeros(SHAPE, np.uint8)
    for i, value in enumerate(values):
        labels[7 + 2 * i : 9 + 2 * i, 9:13, 7:11] = value
    return labels


def brats_study(folder, sequences=("t1", "t1ce", "t2", "flair"), labels=(1, 2, 4), affine=LPS):
    """Write one study in BraTS 2018 naming below `folder`, whose name is the subject."""
    folder = Path(folder)
    for i, sequence in enumerate(sequences):
        save(folder / f"{folder.name}_{sequence}.nii.gz", brain(seed=i), affine)
    if labels is not None:
        save(folder / f"{folder.name}_seg.nii.gz", brats_labels(labels), affine)
    return folder


def truncate(path, share=0.6):
    """Cut a file short."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])
    return Path(path)


def claim_shape(path, shape):
    """Change the shape in a NIfTI-1 header without touching the data."""
    path = Path(path)
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    struct.pack_into("<8h", content, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    return path


def contents(folder):
    """{relative path: bytes} of every file below `folder`, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
