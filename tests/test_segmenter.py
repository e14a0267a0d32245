"""The built-in segmenter: its input, its batches, its training and its file."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from ummgat.core.study import Study, load_cohort
from ummgat.segment import sampling
from ummgat.segment.sampling import Subject, draw_batch, read_subject
from ummgat.segment.train import require_spacing, score, train_segmenter
from ummgat.segment.unet import (
    SegmenterConfig,
    UnetSegmenter,
    build_unet,
    load_segmenter,
    normalised,
    save_segmenter,
    with_neighbours,
)

TWO = SegmenterConfig(
    sequences=("t1ce", "t2"), spacing_mm=1, crop=(1, 32, 32), widths=(8, 8, 8, 8, 8), batch=4, iterations=40, lr=1e-2
)


@pytest.fixture(scope="module")
def studies(cohort_studies):
    return [s for s in cohort_studies if {"t1", "t1ce", "t2", "flair"} <= set(s.sequences) and s.labels() is not None]


def blob(seed=0, shape=(12, 30, 34)):
    """A round brain with a bright ball in the second image, which is the lesion."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    rng = np.random.default_rng(seed)
    brain = z**2 + y**2 + x**2 < 0.9
    cz, cy, cx = rng.uniform(-0.3, 0.3, 3)
    lesion = ((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 0.08) & brain
    images = [rng.integers(80, 120, shape), rng.integers(80, 120, shape) + 100 * lesion]
    return [np.where(brain, image, 0).astype(np.uint8) for image in images], lesion


# ---------------------------------------------------------------- input


def test_images_are_normalised_over_their_own_brain_and_empty_ones_stay_empty():
    (a, b), _ = blob()
    found = normalised([a, b, np.zeros_like(a)])
    for image, true in zip(found, (a, b), strict=False):
        assert image[true > 0].mean() == pytest.approx(0, abs=1e-4)
        assert image[true > 0].std() == pytest.approx(1, abs=1e-4)
        assert not image[true == 0].any()
    assert not found[2].any()


def test_neighbours_are_channels_and_nothing_lies_beyond_the_ends():
    images = np.arange(2 * 4, dtype=np.float32).reshape(2, 4, 1, 1) + 1  # image 0: planes 1 2 3 4; image 1: 5 6 7 8
    found = with_neighbours(images, np.array([0, 2, 3]), 3)[:, :, 0, 0]
    np.testing.assert_array_equal(found, [[0, 1, 2, 0, 5, 6], [2, 3, 4, 6, 7, 8], [3, 4, 0, 7, 8, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": 2}, "planes 2 must be odd"),
        ({"dimensions": 3}, "planes 3 must be odd, and 1 in 3-D"),
        ({"crop": (1, 40, 32)}, "must be multiples of 16 from 32 on"),
        ({"sequences": ("t1", "t1")}, "each once"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SegmenterConfig(**({"crop": (1, 32, 32)} | change))


# ---------------------------------------------------------------- batches


def subject(seed=0):
    images, lesion = blob(seed)
    return Subject(f"s{seed}", normalised(images), lesion.astype(np.uint8))


def test_batches_are_a_function_of_the_step():
    subjects = [subject(i) for i in range(3)]
    first, again, other = (draw_batch(subjects, TWO, step) for step in (3, 3, 4))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.x, other.x)
    assert first.x.shape == (4, 6, 32, 32)
    assert first.y.shape == (4, 1, 32, 32)
    assert first.y.dtype == torch.int64


def test_labels_move_with_the_images():
    """The lesion is what is bright in the second image, however a patch was turned, scaled and mirrored."""
    for step in range(5):
        batch = draw_batch([subject(1)], TWO, step)
        bright = batch.x[:, 4] > 1.5  # second image, middle plane
        lesion = batch.y[:, 0] > 0
        assert lesion.any()
        assert (bright & lesion).sum() / lesion.sum() > 0.9
        assert (bright & ~lesion).sum() / bright.sum() < 0.25  # interpolation blurs the edge


def test_sequence_dropout_blanks_all_planes_of_an_image_and_never_all_images():
    config = TWO.model_copy(update={"drop": 0.6, "batch": 64})
    x = draw_batch([subject()], config, 0).x.view(64, 2, 3, 32, 32)
    there = x.flatten(2).any(2)
    assert there.any(1).all()
    assert 0.3 < 1 - there.float().mean() < 0.6
    assert draw_batch([subject()], TWO.model_copy(update={"batch": 64}), 0).x.view(64, 2, -1).any(2).all()


def test_three_dimensions_give_cubes():
    config = SegmenterConfig(sequences=("t1ce", "t2"), dimensions=3, planes=1, crop=(32, 32, 48), batch=2)
    batch = draw_batch([subject()], config, 0)
    assert batch.x.shape == (2, 2, 32, 32, 48)
    assert batch.y.shape == (2, 1, 32, 32, 48)


def test_subjects_that_cannot_train_are_named(studies):
    bare = Study(studies[0].folder, studies[0].record.model_copy(update={"labels_file": None}))
    with pytest.raises(ValueError, match=rf"Subject cannot train a segmenter: {bare.subject}\. Found no annotation"):
        read_subject(bare, TWO)
    whole = Study(studies[0].folder, studies[0].record.model_copy(update={"labels_regions": "wt"}))
    with pytest.raises(ValueError, match="Found a whole-tumour mask; expected labels NCR, ED, ET"):
        read_subject(whole, TWO)
    assert set(np.unique(read_subject(whole, TWO.model_copy(update={"regions": "wt"})).labels)) <= {0, 1}
    with pytest.raises(ValueError, match=r"Found no dwi; expected t1, dwi"):
        read_subject(studies[0], TWO.model_copy(update={"sequences": ("t1", "dwi")}))


# ---------------------------------------------------------------- training


def test_training_learns_resumes_exactly_and_exports(studies, tmp_path):
    training, selection = studies[:1], studies[1:2]
    losses = []
    path = train_segmenter(TWO, training, selection, tmp_path / "whole", on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])

    class Killed(Exception):
        pass

    def kill(step, loss):
        if step == 25:
            raise Killed

    import ummgat.segment.train as module

    every, module.SAVE_EVERY = module.SAVE_EVERY, 20
    try:
        with pytest.raises(Killed):
            train_segmenter(TWO, training, selection, tmp_path / "cut", on_step=kill)
        steps = []
        again = train_segmenter(TWO, training, selection, tmp_path / "cut", on_step=lambda s, _: steps.append(s))
    finally:
        module.SAVE_EVERY = every
    assert steps[0] == 21
    found, other = load_segmenter(path), load_segmenter(again)
    assert found.training == other.training
    assert all(torch.equal(v, other.net.state_dict()[k]) for k, v in found.net.state_dict().items())
    assert found.config == TWO
    assert found.training["subjects"] == [s.subject for s in training]
    assert set(found.training["selection_dice"]) == {s.subject for s in selection}
    assert 0 <= score(found, selection[0])["WT"] <= 1
    with pytest.raises(ValueError, match=r"Checkpoint belongs to another run: .*Found other config"):
        train_segmenter(TWO.model_copy(update={"seed": 1}), training, selection, tmp_path / "cut")


def test_a_segmenter_goes_on_with_its_own_data_only(cohort, studies, tmp_path):
    folder = shutil.copytree(cohort, tmp_path / "cohort")
    short = TWO.model_copy(update={"iterations": 2})
    own = [study for study in load_cohort(folder) if study.subject == studies[0].subject]
    train_segmenter(short, own, [], tmp_path / "run")
    path = own[0].folder / own[0].record.labels_file
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.flip(np.asarray(image.dataobj), 0).copy(), image.affine), path)
    with pytest.raises(ValueError, match=rf"trained on other data: .*1 changed \({own[0].subject}\)"):
        train_segmenter(short, own, [], tmp_path / "run")
    train_segmenter(short, own, [], tmp_path / "run", changed_data=True)


def test_nobody_trains_and_selects(studies, tmp_path):
    with pytest.raises(ValueError, match=rf"Found {studies[0].subject} in training and selection"):
        train_segmenter(TWO, studies[:2], studies[:1], tmp_path)
    with pytest.raises(ValueError, match="Found no training subjects"):
        train_segmenter(TWO, [], studies[:1], tmp_path)


def test_another_grid_is_refused(studies):
    require_spacing(studies[0], 1.0)
    with pytest.raises(ValueError, match=r"Study is on another grid: .*Found voxels of 1 x 1 x 1 mm; expected 2 mm"):
        require_spacing(studies[0], 2.0)


# ---------------------------------------------------------------- use


def segmenter(config=TWO):
    return UnetSegmenter(build_unet(config).eval(), config, {"subjects": []})


def test_answers_on_the_grid_of_the_images_and_inside_the_brain_only():
    (a, b), _ = blob()
    found = segmenter()({"t1ce": a, "t2": b})
    assert found.shape == a.shape
    assert found.dtype == np.uint8
    assert not found[(a == 0) & (b == 0)].any()
    assert found.max() <= 3
    assert not segmenter()({"t1ce": np.zeros_like(a), "t2": np.zeros_like(a)}).any()


def test_whole_tumour_is_stored_as_oedema():
    config = TWO.model_copy(update={"regions": "wt"})
    (a, b), _ = blob()
    assert set(np.unique(segmenter(config)({"t1ce": a, "t2": b}))) <= {0, 2}


def test_a_missing_sequence_is_an_error_and_not_a_guess():
    (a, _), _ = blob()
    with pytest.raises(ValueError, match=r"Image is missing: t2\. Found t1ce; expected t1ce, t2"):
        segmenter()({"t1ce": a})


def test_three_dimensional_segmenter_answers():
    config = SegmenterConfig(
        sequences=("t1ce", "t2"), dimensions=3, planes=1, crop=(32, 32, 32), widths=(4, 4, 4, 4, 4)
    )
    (a, b), _ = blob()
    assert segmenter(config)({"t1ce": a, "t2": b}).shape == a.shape


def test_what_was_exported_answers_alike_and_damage_is_told(tmp_path):
    (a, b), _ = blob()
    own, path = segmenter(), tmp_path / "segmenter.safetensors"
    save_segmenter(path, own)
    found = load_segmenter(path)
    assert (found({"t1ce": a, "t2": b}) != own({"t1ce": a, "t2": b})).mean() < 0.02  # weights are stored in 16 bits
    assert found.hash
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_segmenter(path)


def test_a_turn_keeps_shapes_on_patches_of_unequal_sides(monkeypatch):
    """A bar keeps its length and width: turned, not sheared."""
    monkeypatch.setattr(sampling, "ROTATION", 60.0)
    monkeypatch.setattr(sampling, "SCALE", 0.0)
    rows, columns = np.meshgrid(np.arange(64), np.arange(96), indexing="ij")
    bar = (abs(rows - 32) < 4) & (abs(columns - 48) < 14)
    y = torch.from_numpy(np.stack([bar] * 8)[:, None].astype(np.uint8))
    config = TWO.model_copy(update={"crop": (1, 64, 96)})
    _, moved = sampling._moved(y.float(), y, config, np.random.default_rng(0))
    for image in moved[:, 0].numpy() > 0:
        spread = np.sqrt(np.linalg.eigvalsh(np.cov(np.nonzero(image))))
        np.testing.assert_allclose(spread, [7 / 12**0.5, 27 / 12**0.5], rtol=0.06)
