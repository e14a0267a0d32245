"""A lopsided volume and a patient with a name worth hiding, for tests of DICOM."""

import nibabel as nib
import numpy as np

NAMED = {
    "PatientName": "Müller-Lüdenscheidt^Jürgen",
    "PatientID": "KH-0815-4711",
    "PatientBirthDate": "19610203",
}
SECRETS = (
    "müller",
    "mueller",
    "lüdenscheidt",
    "jürgen",
    "kh-0",
    "0815-4711",
    "19610203",
    "/1961",
    "03.02.",
    "acc0",
    "rita",
)
"""What must be in no output, in lower case; long enough not to occur by chance in UIDs and hashes."""


def lopsided(seed=0):
    """(16, 20, 12): no flip or swap of axes leaves it the same, and every plane differs from its neighbours."""
    x, y, z = np.meshgrid(np.arange(16), np.arange(20), np.arange(12), indexing="ij")
    image = 100.0 + 10 * x + 3 * y + 40 * z + (17 * seed) % 50
    image[2:5, 3:9, 1:4] = 1500
    return np.rint(image)


def axes(kind):
    """Affine (voxel → RAS mm) of a stack as scanners make them."""
    turned = {
        "axial": np.diag([-2.0, -2.5, 4.0]),
        "axial from above": np.diag([-2.0, -2.5, -4.0]),  # planes numbered downwards
        "mirrored": np.diag([2.0, -2.5, 4.0]),  # columns run to the right
        "sagittal": np.array([[0, 0, -4.0], [-2.0, 0, 0], [0, -2.5, 0]]),
        "coronal": np.array([[-2.0, 0, 0], [0, 0, 4.0], [0, -2.5, 0]]),
    }
    affine = np.eye(4)
    if kind == "oblique":
        a, b = 0.31, -0.17
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        affine[:3, :3] = about_z @ about_x @ turned["axial"]
    else:
        affine[:3, :3] = turned[kind]
    affine[:3, 3] = 31.25, 22.123456, -40.5
    return affine


def same_place(image, affine, path):
    """Assert that a NIfTI file shows `image` where `affine` puts it, whatever its order of axes."""
    expected = nib.as_closest_canonical(nib.Nifti1Image(image.astype(np.float32), affine))
    found = nib.as_closest_canonical(nib.load(path))
    assert found.shape == expected.shape
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in found.shape])).reshape(3, -1)
    points = np.vstack([corners, np.ones(8)])
    assert np.abs((found.affine - expected.affine) @ points).max() < 1e-3
    np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())
