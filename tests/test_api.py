"""What Python users find, and a study completed in memory against the same study completed on disk."""

import doctest
import importlib
import pydoc
import re
from dataclasses import fields
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import ummgat

ROOT = Path(ummgat.__file__).parent

WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.fixture
def images(phantom):
    folder = phantom / "studies" / "Phantom_A_001"
    return {p.name.split("_")[-1].removesuffix(".nii.gz"): nib.load(p) for p in folder.glob("*_t1.nii.gz")}


@pytest.fixture
def ours(model_path):
    return ummgat.Model.load(model_path, device="cpu")


# ---------------------------------------------------------------- found


def test_the_package_shows_what_it_has():
    assert set(ummgat.__all__) <= set(dir(ummgat))
    for name in ummgat.__all__:
        assert getattr(ummgat, name)
    with pytest.raises(AttributeError, match="no attribute 'compleat'"):
        ummgat.compleat  # noqa: B018


def test_public_functions_are_not_hidden_by_rooms_of_their_name():
    """A package `ummgat.complete` would take the function's place as soon as anything in it were imported; one that has
    a function's name must answer to its call, whatever was imported before."""
    shared = {path.parent.name for path in ROOT.glob("*/__init__.py")} & set(ummgat.__all__)
    assert shared == {"segment"}
    importlib.import_module("ummgat.segment.contract")
    with pytest.raises(FileNotFoundError, match="Source is missing: nowhere"):
        ummgat.segment("nowhere", "out")


@pytest.mark.parametrize("documented", [ummgat.Request, ummgat.GeneratedImage, ummgat.SegmentedStudy])
def test_help_describes_every_field(documented):
    text = pydoc.render_doc(documented, renderer=pydoc.plaintext)
    for field in fields(documented):
        assert re.search(rf"^ \|  {field.name} : .+\n \|      \S.+", text, re.MULTILINE), field.name
    assert re.findall(r"^ \|  (\w+) : ", text, re.MULTILINE) == [field.name for field in fields(documented)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_are_right(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_check_of_examples_can_fail():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1
    assert len(WITH_EXAMPLES) > 15


# ---------------------------------------------------------------- in memory


def test_memory_gives_what_the_disk_gives(images, ours, phantom, model_path, tmp_path):
    made = ours.complete(images, center="A")
    source = phantom / "studies" / "Phantom_A_001"
    report = ummgat.complete(source, tmp_path, model_path, center="A", device="cpu")
    assert not report.failed
    assert list(made) == ["t1ce", "t2"]
    for sequence, image in made.items():
        stem = tmp_path / "Phantom_A_001" / f"Phantom_A_001_{sequence}_generated"
        on_disk = nib.load(f"{stem}.nii.gz")
        np.testing.assert_array_equal(image.image.get_fdata(), on_disk.get_fdata())
        np.testing.assert_array_equal(image.image.affine, on_disk.affine)
        assert image.image.header["descrip"] == on_disk.header["descrip"]
        assert b"SYNTHETIC" in image.image.header["descrip"].item()
        trust = nib.load(f"{stem}_reliability.nii.gz")
        np.testing.assert_array_equal(image.reliability.get_fdata(), trust.get_fdata())
    assert any("contrast" in warning for warning in made["t1ce"].warnings)


def test_nothing_touches_the_disk_and_images_stay_as_they_are(images, ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    t1 = images["t1"]
    arrays = {"t1": (np.asanyarray(t1.dataobj), t1.affine)}
    before = arrays["t1"][0].copy()
    opened = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a) or pytest.fail("opened a file"))
    made = ours.complete(arrays, targets=["t2"], center="A", reliability=False)
    assert opened == []
    assert list(made) == ["t2"]
    assert made["t2"].reliability is None
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(arrays["t1"][0], before)


def test_the_order_of_voxels_is_kept(images, ours):
    """A study stored upside down gives the same image, stored upside down."""
    t1 = images["t1"]
    turned = nib.as_closest_canonical(t1).slicer[::-1, :, ::-1]
    plain = ours.complete({"t1": t1}, targets=["t2"], center="A", reliability=False)["t2"].image
    other = ours.complete({"t1": turned}, targets=["t2"], center="A", reliability=False)["t2"].image
    assert nib.aff2axcodes(other.affine) == nib.aff2axcodes(turned.affine) == ("L", "A", "I")
    same = nib.as_closest_canonical(plain), nib.as_closest_canonical(other)
    np.testing.assert_array_equal(same[0].get_fdata(), same[1].get_fdata())


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ((np.ones((4, 4)), np.eye(4)), r"not a single grey volume: t1\. Found float64 of shape \(4, 4\)"),
        ((np.ones((4, 4, 4), complex), np.eye(4)), "not a single grey volume"),
        ((np.ones((4, 4, 4)), np.eye(3)), "Affine places no voxels: t1"),
        ((np.ones((4, 4, 4)), np.zeros((4, 4))), "Affine places no voxels: t1"),
        ((np.full((4, 4, 4), np.nan), np.eye(4)), "not numbers: t1. Found 64 NaN"),
        ((np.zeros((4, 4, 4)), np.eye(4)), "Image is empty"),
    ],
)
def test_what_is_no_image_is_refused(ours, image, says):
    with pytest.raises(ValueError, match=says):
        ours.complete({"t1": image}, center="A")


def test_centers_and_sequences_are_asked_for_and_never_guessed(images, ours):
    assert ours.centers == ("A", "B")
    assert ours.sequences == ("t1", "t1ce", "t2")
    with pytest.raises(ValueError, match=r"Center of the study is unknown: center\. Found none; expected one of A, B"):
        ours.complete(images)
    with pytest.raises(ValueError, match="t9"):
        ours.complete(images, targets=["t9"], center="A")
    with pytest.raises(ValueError, match="different grids"):
        ours.complete(images | {"t2": (np.ones((4, 4, 4)), np.eye(4))}, center="A")


def test_without_a_model_the_bundled_one_is_taken(images, ours, phantom, model_path, tmp_path, monkeypatch):
    monkeypatch.setattr("ummgat.core.machine.bundled_file", lambda name: model_path)
    assert ummgat.Model.load().trained.hash == ours.trained.hash
    source = phantom / "studies" / "Phantom_A_001"
    report = ummgat.complete(source, tmp_path / "a", center="A", request=ummgat.Request(targets=("t2",)))
    assert list(report.done) == ["Phantom_A_001"]
    again = ummgat.complete(source, tmp_path / "a", ours, center="A", request=ummgat.Request(targets=("t2",)))
    assert again.up_to_date == ["Phantom_A_001"]
