import errno
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import bad_nifti as bad
import ummgat
import ummgat.completion.cohort
from conftest import DOMAINS
from ummgat.completion.cohort import complete
from ummgat.completion.fill import NO_CONTRAST, Request, encode_reference, fill
from ummgat.completion.native import to_native
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.files import TEMPORARY
from ummgat.core.study import load_cohort, load_study
from ummgat.core.tensors import file_hash
from ummgat.core.version import __version__
from ummgat.core.volume import Grid
from ummgat.model.masked import to_unit
from ummgat.model.translate import translate_volume
from ummgat.model.weights import unpaired_score
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.images import prepare_images
from ummgat.prepare.settings import PrepareSettings

A, B = "Phantom_A_006", "Phantom_B_004"
"""Test subjects; A's center scans t1, t1ce, t2 and flair, B's t1 and t2. The model knows A/t1, A/t1ce, A/t2 and
B/t2."""


def some_of(phantom, folder, subject, sequences, name=None):
    """A raw study that lacks everything but `sequences`."""
    name = name or subject
    (folder / name).mkdir(parents=True)
    for sequence in sequences:
        shutil.copy(
            phantom / "studies" / subject / f"{subject}_{sequence}.nii.gz", folder / name / f"{name}_{sequence}.nii.gz"
        )
    return folder / name


@pytest.fixture(scope="module")
def raws(phantom, tmp_path_factory):
    """Raw: A with t1 and t2, B with t2."""
    folder = tmp_path_factory.mktemp("raws")
    some_of(phantom, folder, A, ["t1", "t2"])
    some_of(phantom, folder, B, ["t2"])
    return folder


@pytest.fixture(scope="module")
def gaps(phantom, raws, tmp_path_factory):
    """The same, prepared; A is annotated."""
    folder = tmp_path_factory.mktemp("gaps")
    source = shutil.copytree(raws, folder / "raw")
    shutil.copy(phantom / "studies" / A / f"{A}_seg.nii.gz", source / A)
    assert not prepare_cohort(source, folder / "cohort", PrepareSettings(centers=phantom / "centers.csv")).failed
    return folder / "cohort"


@pytest.fixture(scope="module")
def volumes(gaps):
    """A's acquired sequences."""
    study = load_study(gaps / A)
    return {q: np.array(study.volume(q)) for q in study.acquired}


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def like(model, sequence):
    """How much neighbouring planes of a generated image of center A may differ."""
    return float(model.flickers[model.table.index(Domain("A", sequence))])


def only(generated):
    (image,) = generated
    return image


def copy_of(model, **changes):
    return type(model)(**vars(model) | changes)


def ask(model, volumes, center="A", **request):
    """Fill in memory, quickly."""
    return fill(model, volumes, center, Request(**{"with_reliability": False} | request))


def nothing_temporary(folder):
    return not list(folder.rglob(TEMPORARY + "*"))


# ---------------------------------------------------------------- prepared in, prepared out


@pytest.fixture(scope="module")
def completed(gaps, model_path, tmp_path_factory):
    """(report, output folder, hashes of the input before)"""
    before = hashes(gaps)
    out = tmp_path_factory.mktemp("completed") / "out"
    return complete(gaps, out, model_path), out, before


def test_a_cohort_comes_back_as_a_cohort(gaps, completed):
    report, out, _ = completed
    stem = f"{A}/t1ce_generated"
    assert report.done == {A: [f"{stem}.nii", f"{stem}.json", f"{stem}_reliability.nii"], B: []}
    assert not report.failed
    first, second = load_cohort(out)
    assert {q: i.kind for q, i in first.record.images.items()} == {
        "t1": "acquired",
        "t2": "acquired",
        "t1ce": "generated",
    }
    assert second.sequences == ["t2"]  # B's only domain: nothing is missing
    assert first.grid == load_study(gaps / A).grid
    assert all(first.volume(q).shape == first.shape for q in first.sequences)
    assert first.record.images["t1ce"].file == "t1ce_generated.nii"
    assert says(out / A / "t1ce_generated.nii") == "SYNTHETIC t1ce by ummgat, not a scan"
    assert says(out / A / "t1.nii") == ""


def test_what_was_acquired_is_the_same_to_the_byte_and_inputs_are_untouched(gaps, completed):
    _, out, before = completed
    after = hashes(out)
    for name in (f"{A}/t1.nii", f"{A}/t2.nii", f"{A}/labels.nii", f"{B}/t2.nii"):
        assert after[name] == before[name]
    assert hashes(gaps) == before
    assert nothing_temporary(out)


def test_sidecar_says_where_the_image_comes_from(model, model_path, completed):
    _, out, _ = completed
    sidecar = json.loads((out / A / "t1ce_generated.json").read_text(encoding="utf-8"))
    expected = {
        "generated": True,
        "target": "A/t1ce",
        "sources": model.criteria["sources"]["A/t1ce"][:1],
        "method": "generate",
        "code_mode": model.criteria["mode"],
        "checkpoint_hash": file_hash(model_path),
        "checkpoint_version": __version__,
        "software": f"ummgat {__version__}",
        "source_choice": "true images of selection subjects",
        "warnings": [NO_CONTRAST],
    }
    assert expected.items() <= sidecar.items()
    assert "arbitrary units" in sidecar["intensities"]
    assert "Not a scan" in sidecar["notice"]
    assert load_study(out / A).record.images["t1ce"].provenance == sidecar


def test_t1ce_without_contrast_in_any_source_warns(completed, model, volumes):
    report, _, _ = completed
    assert report.warnings == {A: [NO_CONTRAST]}
    assert only(ask(model, volumes, targets=("t1ce",), sources=("t1",))).warnings == [NO_CONTRAST]
    both = copy_of(model, table=DomainTable.from_names(["A/t1", "A/t1ce", "B/t1ce", "B/t2"]))
    with_contrast = ask(both, volumes | {"t1ce": volumes["t1"]}, align_to="B", targets=("t1ce",), mode="mean")
    assert only(with_contrast).provenance["sources"] == ["A/t1ce"]
    assert only(with_contrast).warnings == []
    aligned = ask(model, {"t2": volumes["t2"]}, center="B", align_to="A")
    assert {i.target.sequence: bool(i.warnings) for i in aligned} == {"t1": False, "t1ce": True, "t2": False}


def test_generated_image_and_its_reliability_cover_the_whole_brain(completed, volumes):
    """The brain is larger than the training crop of 20×24 at its widest."""
    _, out, _ = completed
    study = load_study(out / A)
    sources = study.record.images["t1ce"].provenance["sources"]
    brain = volumes[Domain.parse(sources[0]).sequence] > 0
    extent = [int(np.ptp(np.flatnonzero(brain.any(axes)))) + 1 for axes in ((0, 2), (0, 1))]
    assert extent[0] > 20
    np.testing.assert_array_equal(study.volume("t1ce") > 0, brain)
    trust = study.companion("t1ce_generated_reliability.nii")
    np.testing.assert_array_equal(trust > 0, brain)
    assert trust.max() <= 100


def test_one_prepared_study_by_itself(gaps, model, completed, tmp_path):
    report = complete(gaps / A, tmp_path, model)
    assert list(report.done) == [A]
    assert hashes(tmp_path)[f"{A}/t1ce_generated.nii"] == hashes(completed[1])[f"{A}/t1ce_generated.nii"]


def test_completing_again_generates_the_same_from_what_was_acquired(completed, model, tmp_path):
    report = complete(completed[1] / A, tmp_path, model)
    assert report.done[A] == completed[0].done[A]
    assert hashes(tmp_path)[f"{A}/t1ce_generated.nii"] == hashes(completed[1])[f"{A}/t1ce_generated.nii"]


def test_result_lists_no_earlier_generated_image_that_is_not_in_its_folder(completed, model, tmp_path):
    """t1ce was generated before; now t2 alone is asked for."""
    study = load_study(shutil.copytree(completed[1] / A, tmp_path / "in" / A))
    (study.folder / "t2.nii").unlink()
    record = study.record.model_copy(deep=True)
    del record.images["t2"]
    (study.folder / "study.json").write_text(record.model_dump_json(), encoding="utf-8")
    report = complete(tmp_path / "in", tmp_path / "out", model, request=Request(targets=("t2",)))
    assert report.done[A]
    found = load_study(tmp_path / "out" / A)
    assert {q: bool(found.volume(q).any()) for q in found.sequences} == {"t1": True, "t2": True}


def test_other_voxel_size_than_the_models_is_a_problem_of_that_study(raws, phantom, model, tmp_path):
    prepare_cohort(raws, tmp_path / "cohort", PrepareSettings(centers=phantom / "centers.csv", spacing_mm=2.0))
    report = complete(tmp_path / "cohort", tmp_path / "out", model)
    assert set(report.failed) == {A, B}
    assert "Found (2.0, 2.0, 2.0) mm; expected 1.0 mm" in report.failed[A]


# ---------------------------------------------------------------- NIfTI in, NIfTI out


def test_nifti_comes_back_in_its_own_grid(raws, model_path, tmp_path):
    before = hashes(raws)
    report = complete(raws / A, tmp_path, model_path, center="A")
    stem = f"{A}/{A}_t1ce_generated"
    assert report.done == {A: [f"{stem}.nii.gz", f"{stem}.json", f"{stem}_reliability.nii.gz"]}
    assert hashes(raws) == before
    after = hashes(tmp_path)
    for sequence in ("t1", "t2"):
        assert after[f"{A}/{A}_{sequence}.nii.gz"] == before[f"{A}/{A}_{sequence}.nii.gz"]
    sidecar = json.loads((tmp_path / f"{stem}.json").read_text(encoding="utf-8"))
    source = Domain.parse(sidecar["sources"][0]).sequence
    assert sidecar["source_files"] == [f"{A}_{source}.nii.gz"]
    assert sidecar["center_given"] == "A"
    assert_fits(tmp_path / f"{stem}.nii.gz", raws / A / f"{A}_{source}.nii.gz")
    assert_fits(tmp_path / f"{stem}_reliability.nii.gz", raws / A / f"{A}_{source}.nii.gz")
    assert says(tmp_path / f"{stem}.nii.gz") == "SYNTHETIC t1ce by ummgat, not a scan"


def says(path):
    """Text in the header of a NIfTI file."""
    return bytes(nib.load(path).header["descrip"]).rstrip(b"\0").decode()


def assert_fits(generated, source):
    """Same shape, affine and orientation; a value exactly where the source has brain."""
    image, original = nib.load(generated), nib.load(source)
    assert image.shape == original.shape
    np.testing.assert_array_equal(image.affine, original.affine)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj) > 0, np.asarray(original.dataobj) > 0)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR"])
def test_anisotropic_input_of_any_orientation(raws, model, tmp_path, axes):
    """Every third plane of A, 1×1×3 mm; in the file its axes may point anywhere."""
    for path in (raws / A).iterdir():
        image = nib.load(path)
        affine = image.affine @ np.diag([1, 1, 3, 1])
        thin = nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::3], affine)
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(axes)))
        (tmp_path / "in" / "thin").mkdir(parents=True, exist_ok=True)
        nib.save(thin.as_reoriented(turn), tmp_path / "in" / "thin" / path.name.replace(A, "thin"))
    source = tmp_path / "in" / "thin" / "thin_t1.nii.gz"
    assert "".join(nib.aff2axcodes(nib.load(source).affine)) == axes
    request = Request(targets=("t1ce",), sources=("t1",))
    report = complete(tmp_path / "in", tmp_path / "out", model, center="A", request=request)
    assert not report.failed
    for name in ("thin_t1ce_generated.nii.gz", "thin_t1ce_generated_reliability.nii.gz"):
        assert_fits(tmp_path / "out" / "thin" / name, source)


def test_native_image_shows_what_the_prepared_one_shows(raws, model, completed, tmp_path):
    """At the same voxel size going back is only turning: RAS planes, rows, columns to LPS x, y, z."""
    complete(raws / A, tmp_path, model, center="A")
    native = np.asarray(nib.load(tmp_path / A / f"{A}_t1ce_generated.nii.gz").dataobj)
    prepared = load_study(completed[1] / A).volume("t1ce")
    np.testing.assert_array_equal(native[::-1, ::-1].T, prepared)


def test_going_back_leaves_no_dark_rim():
    """A flat 2 mm brain on a 1 mm grid whose brain reaches one voxel further: flat, to the edge."""
    coarse, fine = Grid.of((6, 6, 6), np.diag([2.0, 2, 2, 1])), Grid.of((12, 12, 12), np.eye(4))
    volume = np.zeros((6, 6, 6), np.uint8)
    volume[1:5, 1:5, 1:5] = 180
    brain = np.zeros((12, 12, 12), bool)
    brain[1:11, 1:11, 1:11] = True
    np.testing.assert_array_equal(to_native(volume, coarse, fine, brain), np.where(brain, 180, 0))


def test_spaces_and_letters_of_any_script_in_paths(phantom, model, tmp_path):
    name = "Müller, Zoë 患者 1"
    folder = some_of(phantom, tmp_path / "Eingang Klinik ß", A, ["t1", "t2"], name)
    report = complete(folder.parent, tmp_path / "Ergebnis ü", model, center="A")
    assert report.done[name][0] == f"{name}/{name}_t1ce_generated.nii.gz"
    assert all((tmp_path / "Ergebnis ü" / file).is_file() for file in report.done[name])


def test_center_of_plain_nifti_is_never_guessed(raws, model, tmp_path):
    report = complete(raws, tmp_path / "out", model)
    assert set(report.failed) == {A, B}
    assert "Center of the study is unknown" in report.failed[A]
    assert "Say --center; it is never guessed" in report.failed[A]


# ---------------------------------------------------------------- what is generated from what


def test_a_target_may_be_named_and_must_be_missing_and_known(model, volumes):
    assert [str(i.target) for i in ask(model, volumes)] == ["A/t1ce"]
    assert [str(i.target) for i in ask(model, {"t1": volumes["t1"]})] == ["A/t1ce", "A/t2"]
    assert [str(i.target) for i in ask(model, {"t1": volumes["t1"]}, targets=("t2",))] == ["A/t2"]
    for targets, message in (
        (("t2",), "Requested target was acquired. Found t2"),
        (("flair",), "Unknown target domain. Found A/flair; expected one of " + ", ".join(DOMAINS)),
        (("t9",), "Unknown sequence: requested target. Found 't9'"),
    ):
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            ask(model, volumes, targets=targets)


def test_source_is_the_best_stored_one_that_is_there(model, volumes):
    ranked = [Domain.parse(s).sequence for s in model.criteria["sources"]["A/t1ce"]][:2]
    assert set(ranked) == {"t1", "t2"}
    assert only(ask(model, volumes)).provenance["sources"] == [f"A/{ranked[0]}"]
    left = only(ask(model, {ranked[1]: volumes[ranked[1]]}, targets=("t1ce",)))
    assert left.provenance["sources"] == [f"A/{ranked[1]}"]


@pytest.mark.parametrize("source", ["t1", "t2"])
def test_from_takes_the_named_source(model, volumes, source):
    image = only(ask(model, volumes, sources=(source,), mode="mean"))
    assert image.provenance["sources"] == [f"A/{source}"]
    assert image.provenance["source_choice"] == "requested"
    codes = model.codes["mean"][1], model.code(Domain("A", source), "mean")
    np.testing.assert_array_equal(
        image.volume, translate_volume(model.nets.generator, volumes[source], *codes, like(model, "t1ce"))
    )


def test_from_must_name_what_is_there(model, volumes):
    with pytest.raises(
        ValueError, match=r"Requested source is not available: t1ce\. Found t1, t2; expected one of these"
    ):
        ask(model, volumes, targets=("t1ce",), sources=("t1ce",))


@pytest.mark.parametrize("mode", ["mean", "mapper"])
def test_code_mode_takes_its_stored_code(model, volumes, mode):
    image = only(ask(model, volumes, sources=("t1",), mode=mode))
    assert image.provenance["code_mode"] == mode
    codes = (model.code(Domain("A", sequence), mode) for sequence in ("t1ce", "t1"))
    expected = translate_volume(model.nets.generator, volumes["t1"], *codes, like(model, "t1ce"))
    np.testing.assert_array_equal(image.volume, expected)


def test_reference_code_is_the_mean_over_planes_with_half_the_largest_area(model, volumes):
    volume, target = volumes["t1"], Domain("A", "t1ce")
    area = (volume > 0).sum((1, 2))
    planes = torch.from_numpy(to_unit(volume[area >= area.max() / 2]))[:, None]
    codes = model.nets.encoder(planes, torch.full((len(planes),), 1))
    torch.testing.assert_close(encode_reference(model, volume, target), codes.mean(0))


def test_reference_image_from_a_file(raws, phantom, model, tmp_path):
    """The reference is prepared like a study and read by the target's head."""
    path = phantom / "truth" / A / f"{A}_t1ce.nii.gz"
    request = Request(mode="reference", sources=("t1",), with_reliability=False)
    report = complete(raws / A, tmp_path, model, center="A", request=request, references={"t1ce": path})
    assert not report.failed
    _, prepared, _ = prepare_images({"t1ce": path, "t1": raws / A / f"{A}_t1.nii.gz"}, subject="x", center="A")
    code = encode_reference(model, prepared["t1ce"], Domain("A", "t1ce"))
    own = model.code(Domain("A", "t1"), "mean")
    expected = translate_volume(model.nets.generator, prepared["t1"], code, own, like(model, "t1ce"))
    native = np.asarray(nib.load(tmp_path / A / f"{A}_t1ce_generated.nii.gz").dataobj)
    np.testing.assert_array_equal(native[::-1, ::-1].T, expected)
    sidecar = json.loads((tmp_path / A / f"{A}_t1ce_generated.json").read_text(encoding="utf-8"))
    assert sidecar["code_mode"] == "reference"
    assert not (tmp_path / A / f"{A}_t1ce_generated_reliability.nii.gz").exists()


def test_reference_mode_needs_a_reference_of_the_target_and_its_center(gaps, phantom, model, volumes, tmp_path):
    with pytest.raises(ValueError, match=r"No reference image for target A/t1ce\. Found references for nothing"):
        ask(model, volumes, mode="reference")
    path = phantom / "truth" / A / f"{A}_t1ce.nii.gz"
    with pytest.raises(ValueError, match=r"Center of the reference image is unknown"):
        complete(gaps, tmp_path / "out", model, references={"t1ce": path})


def test_fused_image_by_hand(model, volumes):
    """Weights are the inverse squares of the stored errors; the image is the weighted mean, rounded."""
    image = only(ask(model, volumes, fuse=True))
    mode = model.criteria["mode"]
    rows = {
        row["source"]: row for row in model.criteria["directions"] if (row["mode"], row["target"]) == (mode, "A/t1ce")
    }
    names = [Domain.parse(s).sequence for s in image.provenance["sources"]]
    assert sorted(names) == ["t1", "t2"]
    inverse = np.array([1 / rows[f"A/{q}"]["mae"] ** 2 for q in names])
    weights = inverse / inverse.sum()
    assert image.provenance["method"] == "fuse"
    assert image.provenance["fuse_weights"] == pytest.approx(dict(zip(names, weights, strict=True)), abs=1e-4)
    assert image.provenance["fuse_weights_basis"] == "true images of selection subjects"
    answers = [only(ask(model, volumes, sources=(q,))).volume.astype(float) for q in names]
    brains = [answer > 0 for answer in answers]
    total = sum(w * answer for w, answer in zip(weights, answers, strict=True))
    share = sum(w * brain for w, brain in zip(weights, brains, strict=True))
    expected = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
    assert np.abs(image.volume - expected).max() <= 0.51


def test_fused_weights_without_true_images_and_without_any_validation(model, volumes):
    rows = [row | {"mae": None} for row in model.criteria["directions"]]
    blind = copy_of(model, criteria=model.criteria | {"directions": rows})
    found = only(ask(blind, volumes, fuse=True)).provenance
    scores = {
        r["source"]: unpaired_score(r) for r in rows if (r["mode"], r["target"]) == (found["code_mode"], "A/t1ce")
    }
    ratio = (scores["A/t2"] / scores["A/t1"]) ** 2
    assert found["fuse_weights"]["t1"] / found["fuse_weights"]["t2"] == pytest.approx(ratio, rel=1e-2)
    assert found["fuse_weights_basis"] == "unpaired criteria"
    unknown = copy_of(model, criteria=model.criteria | {"directions": []})
    found = only(ask(unknown, volumes, fuse=True)).provenance
    assert found["fuse_weights"] == {"t1": 0.5, "t2": 0.5}
    assert found["fuse_weights_basis"] == "equal: not every direction was validated"


def test_fused_kind_and_brain_where_a_source_lacks_some(model, volumes, gaps, tmp_path):
    cut = {"t1": volumes["t1"], "t2": volumes["t2"].copy()}
    cut["t2"][:10] = 0
    image = only(ask(model, cut, fuse=True, with_reliability=True))
    both = (cut["t1"] > 0) | (cut["t2"] > 0)
    np.testing.assert_array_equal(image.volume > 0, both)
    alone = only(ask(model, cut, sources=("t1",))).volume
    np.testing.assert_array_equal(image.volume[:10], alone[:10])
    complete(gaps / A, tmp_path, model, request=Request(fuse=True, with_reliability=False))
    assert load_study(tmp_path / A).record.images["t1ce"].kind == "fused"


def test_without_stored_criteria_the_source_must_be_said(model, volumes):
    bare = copy_of(model, criteria={"mode": "mean", "sources": {}, "sources_basis": {}, "directions": []})
    with pytest.raises(ValueError, match=r"no criterion to choose a source for A/t1ce .* Say --from SEQUENCE"):
        ask(bare, volumes)
    assert only(ask(bare, volumes, sources=("t2",))).provenance["sources"] == ["A/t2"]


def test_align_to_another_center(gaps, model, tmp_path):
    """B's t2 in A's look, from itself; A's other sequences from it; nothing acquired by A is among them."""
    request = Request(align_to="A", sources=None)
    report = complete(gaps / B, tmp_path, model, request=request)
    assert not report.failed
    study = load_study(tmp_path / B)
    assert study.center == "A"
    assert study.sequences == ["t1", "t1ce", "t2"]
    assert study.acquired == []
    assert all(i.provenance["sources"] == ["B/t2"] for i in study.record.images.values())
    assert study.record.images["t2"].file == "t2_generated_as-A.nii"
    assert not (tmp_path / B / "t2.nii").exists()


def test_align_to_an_unknown_center_is_refused(model, volumes):
    with pytest.raises(ValueError, match=r"Unknown target domain: center 'C'\. .*expected one of A, B"):
        ask(model, volumes, align_to="C")


# ---------------------------------------------------------------- slices


def test_slices_do_not_depend_on_the_batch_they_are_in(model, volumes):
    """Rounding may tip single voxels by one grey level."""
    generator, codes = model.nets.generator, model.codes["mean"][[1, 0]]
    by_one, by_five, at_once = (
        translate_volume(generator, volumes["t1"], *codes, batch=batch).astype(int) for batch in (1, 5, 64)
    )
    for other in (by_five, at_once):
        assert np.abs(by_one - other).max() <= 1
        assert (by_one != other).mean() < 1e-3


def test_a_volume_does_not_depend_on_the_threads_that_share_it(model, volumes):
    """Bit for bit: each plane is computed by one thread, whichever."""
    generator, codes = model.nets.generator, model.codes["mean"][[1, 0]]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(translate_volume(generator, volumes["t1"], *codes))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_what_fails_on_a_thread_is_heard_and_leaves_the_threads_as_they_were(model, volumes, monkeypatch):
    monkeypatch.setattr("ummgat.model.translate.from_unit", lambda y: 1 / 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError):
            translate_volume(model.nets.generator, volumes["t1"], *model.codes["mean"][:2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_empty_volume_stays_empty(model):
    empty = np.zeros((3, 8, 9), np.uint8)
    assert not translate_volume(model.nets.generator, empty, *model.codes["mean"][:2]).any()


def test_brain_stays_brain_even_where_tanh_reaches_its_end(model, volumes):
    """In 32 bits tanh(-20) is -1, the value of background."""
    out = model.nets.generator.head.out
    before = out.bias.data.clone()
    out.bias.data.fill_(-1000.0)
    try:
        dark = translate_volume(model.nets.generator, volumes["t1"], *model.codes["mean"][:2])
    finally:
        out.bias.data.copy_(before)
    np.testing.assert_array_equal(dark, (volumes["t1"] > 0).astype(np.uint8))


# ---------------------------------------------------------------- refusals and accidents


def test_existing_results_are_kept_unless_overwritten(gaps, model, tmp_path):
    complete(gaps / A, tmp_path, model, request=Request(sources=("t1",)))
    before = hashes(tmp_path)
    request = Request(sources=("t2",))
    report = complete(gaps / A, tmp_path, model, request=request)
    assert "Result exists already" in report.failed[A]
    assert hashes(tmp_path) == before
    report = complete(gaps / A, tmp_path, model, request=request, overwrite=True)
    assert not report.failed
    assert load_study(tmp_path / A).record.images["t1ce"].provenance["sources"] == ["A/t2"]
    assert nothing_temporary(tmp_path)


@pytest.mark.parametrize("where", ["the input", "inside the input", "around the input"])
def test_output_that_would_touch_the_input_is_refused(gaps, model, tmp_path, where):
    """Around: the result of study S in folder F/S would be F/S."""
    source = shutil.copytree(gaps, tmp_path / "cohort")
    before = hashes(tmp_path)
    given, out = {
        "the input": (source, source),
        "inside the input": (source, source / "deep" / "er"),
        "around the input": (source / A, source),
    }[where]
    with pytest.raises(ValueError, match=r"Output (lies in|would replace) the input"):
        complete(given, out, model, overwrite=True)
    assert hashes(tmp_path) == before


def test_unknown_center_and_missing_input_are_refused(raws, model, tmp_path):
    report = complete(raws / A, tmp_path / "out", model, center="C")
    assert "Model does not know the study's center. Found center 'C'; expected one of A, B" in report.failed[A]
    with pytest.raises(FileNotFoundError, match=r"Input is missing: .*nowhere"):
        complete(tmp_path / "nowhere", tmp_path / "out", model, center="A")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No study recognised: .*empty"):
        complete(tmp_path / "empty", tmp_path / "out", model, center="A")


def test_bad_studies_are_reported_and_the_rest_is_done(phantom, model, tmp_path):
    """One study of each kind of bad input beside a good one."""
    source = tmp_path / "in"
    some_of(phantom, source, A, ["t1", "t2"], "good")
    some_of(phantom, source, A, ["flair"], "nothing known")
    grids = some_of(phantom, source, A, ["t1"], "grids")
    bad.save(grids / "grids_t2.nii.gz", bad.brain())
    bad.truncate(some_of(phantom, source, A, ["t1"], "truncated") / "truncated_t1.nii.gz")
    for name, data in {
        "zeros": np.zeros(bad.SHAPE, np.float32),
        "not a number": np.where(bad.ellipsoid(), np.nan, 0).astype(np.float32),
        "four axes": np.stack([bad.brain()] * 3, axis=-1),
    }.items():
        bad.save(source / name / f"{name}_t1.nii.gz", data)
    bad.claim_shape(bad.save(source / "claim" / "claim_t1.nii", bad.brain()), (2000, 2000, 2000))
    calls = []
    report = complete(
        source, tmp_path / "out", model, center="A", progress=lambda done, n, subject: calls.append((done, n, subject))
    )
    assert list(report.done) == ["good"]
    says = {
        "nothing known": "Nothing to complete from. Found flair of center A; expected at least one of t1, t1ce, t2",
        "grids": "t1 and t2 of subject grids are on different grids",
        "truncated": "truncated or damaged",
        "zeros": "Image is empty",
        "not a number": "voxels that are not numbers",
        "four axes": "Image is not a single volume",
        "claim": "Header claims more data than the file can hold",
    }
    assert report.failed.keys() == says.keys()
    for name, message in says.items():
        assert message in report.failed[name], name
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good"]
    assert calls[-1][:2] == (8, 8)
    assert [call[0] for call in calls] == list(range(9))
    assert {call[1] for call in calls} == {8}


def test_a_file_that_may_not_be_read_is_a_problem_of_its_study(gaps, model, tmp_path, monkeypatch):
    copyfile = shutil.copyfile

    def refuse(source, target):
        if A in str(source):
            raise PermissionError(errno.EACCES, "Permission denied", str(source))
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", refuse)
    report = complete(gaps, tmp_path, model)
    assert "Permission denied" in report.failed[A]
    assert list(report.done) == [B]
    assert [p.name for p in tmp_path.iterdir()] == [B]


@pytest.mark.parametrize("accident", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_and_ctrl_c_leave_nothing_half_written(gaps, raws, model, tmp_path, monkeypatch, accident, overwrite):
    """In the middle of the last file of a study. With --overwrite the earlier result stays as it was."""
    out = tmp_path / "out"
    cases = [(gaps / A, out, None), (raws / A, tmp_path / "raw out", "A")]
    if overwrite:
        for source, folder, center in cases:
            complete(source, folder, model, center=center)
    before = hashes(tmp_path)

    def fail(image, path):
        if "reliability" in str(path):
            Path(path).write_bytes(b"half a fi")
            raise accident
        return save(image, path)

    save = nib.save
    monkeypatch.setattr(nib, "save", fail)
    for source, folder, center in cases:
        with pytest.raises(type(accident)) as caught:
            complete(source, folder, model, center=center, overwrite=overwrite)
        if isinstance(accident, OSError):
            assert caught.value.errno == errno.ENOSPC
            assert f"Disk is full: {folder / A}. Found no space" in str(caught.value)
        assert nothing_temporary(tmp_path)
    assert hashes(tmp_path) == before


def test_damaged_model_is_named_before_anything_is_written(gaps, model_path, tmp_path):
    broken = shutil.copy(model_path, tmp_path / "half.safetensors")
    bad.truncate(broken, 0.5)
    with pytest.raises(ValueError, match=r"Weights file is damaged: .*half\.safetensors"):
        complete(gaps, tmp_path / "out", broken)
    assert not (tmp_path / "out").exists()


def test_python_api_stays_a_function_beside_its_module():
    assert ummgat.complete is ummgat.completion.cohort.complete
    assert ummgat.Request is Request
    assert ummgat.CompletionReport is ummgat.completion.cohort.CompletionReport
    with pytest.raises(AttributeError, match="no attribute 'compleat'"):
        ummgat.compleat  # noqa: B018
