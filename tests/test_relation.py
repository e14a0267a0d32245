"""Curves between domains, learnt from subjects that share no pair, with answers one can work out."""

import numpy as np
import pytest

from ummgat.core.study import GridRecord, ImageRecord, StudyRecord, write_study
from ummgat.core.volume import Grid
from ummgat.train.relation import BINS, KNOTS, LEAST_OVERLAP, RIM_MM, RIMS, relations, rim_window
from ummgat.train.slices import TrainingVolume

SHAPE = (40, 44, 36)


def anatomy(seed=0, smooth=True, shape=SHAPE):
    """A map in [0, 1] that all subjects share."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    if smooth:
        return np.clip(0.5 + 0.5 * np.sin(3 * z + 2 * y) * np.cos(2 * x), 0, 1)
    return np.random.default_rng(seed).random(SHAPE)


def volume(folder, subject, sequence, domain, values, *, lesion=None):
    """One subject's prepared volume: brain where `values` is not 0."""
    grid = GridRecord.of(Grid.of(np.shape(values)[::-1], np.eye(4)))
    image = np.where(values == 0, 0, np.clip(np.rint(values), 1, 255)).astype(np.uint8)
    labels = None if lesion is None else lesion.astype(np.uint8)
    record = StudyRecord(
        subject=subject,
        center="A",
        grid=grid,
        original_grid=grid,
        images={sequence: ImageRecord(file=f"{sequence}.nii")},
        labels_file=None if labels is None else "labels.nii",
        brain_voxels=int((image > 0).sum()),
    )
    study = write_study(folder / f"{subject}_{sequence}", record, {sequence: image}, labels)
    none = np.zeros(0)
    return TrainingVolume(study, sequence, domain, none.astype(int), none, none.astype(bool), (0, 0))


def dark_is_bright(folder):
    """Domain 0 shows the anatomy, domain 1 its negative; nobody has both."""
    up, down = 20 + 200 * anatomy(), 220 - 200 * anatomy()
    own = [volume(folder, f"a{i}", "t1", 0, up) for i in range(2)]
    return own + [volume(folder, f"b{i}", "t2", 1, down) for i in range(2)]


def middle_curve(found):
    """From domain 0 to 1, deep in the brain, where these small ones have most of their voxels."""
    return found.curves[0, 1, RIMS // 2]


KNOT_VALUES = np.linspace(0, 255, KNOTS)
SEEN = (KNOT_VALUES > 25) & (KNOT_VALUES < 215)


def test_aligned_negatives_give_the_inverting_curve_and_the_diagonal_is_the_identity(tmp_path):
    found = relations(dark_is_bright(tmp_path), 2)
    assert found.curves.shape == (2, 2, RIMS, KNOTS)
    assert found.curves.dtype == np.float32
    for source, target in ((0, 1), (1, 0)):
        expected = np.broadcast_to(240 - KNOT_VALUES[SEEN], (RIMS, SEEN.sum()))
        np.testing.assert_allclose(found.curves[source, target][:, SEEN], expected, atol=256 / BINS)
    for domain in range(2):
        np.testing.assert_allclose(found.curves[domain, domain], np.tile(np.clip(KNOT_VALUES, 1, 255), (RIMS, 1)))
    assert np.isnan(found.lesions).all()
    assert not found.spreads[[0, 1], [0, 1]].any()
    assert found.spreads.max() < 256 / BINS  # brains that agree leave nothing open


def test_spread_is_large_where_one_intensity_goes_with_several(tmp_path):
    """Bright in domain 0 is 120 in domain 1; dark in domain 0 is 40 or 200, half each."""
    bright = anatomy() > 0.5
    half = np.broadcast_to(np.arange(SHAPE[2]) % 2 == 0, SHAPE)
    first, second = np.where(bright, 200, 50), np.where(bright, 120, np.where(half, 40, 200))
    volumes = [volume(tmp_path, f"a{i}", "t1", 0, first) for i in range(2)]
    volumes += [volume(tmp_path, f"b{i}", "t2", 1, second) for i in range(2)]
    spread = relations(volumes, 2).spreads[0, 1]
    assert np.interp(50, KNOT_VALUES, spread) == pytest.approx(80, abs=3)
    assert np.interp(200, KNOT_VALUES, spread) < 5


def test_brains_of_other_extent_are_stretched_to_one_frame(tmp_path):
    """Heads of domain 1 are smaller by a quarter and lie in a corner: unstretched, hardly a place would meet itself."""
    volumes = dark_is_bright(tmp_path)
    small = tuple(n * 3 // 4 for n in SHAPE)
    down = np.pad(220 - 200 * anatomy(shape=small), [(0, n - m) for n, m in zip(SHAPE, small, strict=True)])
    volumes[2:] = [volume(tmp_path, f"c{i}", "t2", 1, down) for i in range(2)]
    found = relations(volumes, 2)
    np.testing.assert_allclose(middle_curve(found)[SEEN], 240 - KNOT_VALUES[SEEN], atol=12)


def test_flattening_by_poor_overlap_is_undone(tmp_path):
    """Half of each brain's variance is its own: curves across subjects flatten, and steepening brings the slope
    back.
    """
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(SHAPE)
    volumes = []
    for i in range(6):
        own = (shared + rng.standard_normal(SHAPE)) / 2**0.5
        sequence, domain, sign = ("t1", 0, 1) if i < 3 else ("t2", 1, -1)
        volumes.append(volume(tmp_path, f"s{i}", sequence, domain, 128 + sign * 25 * own))
    curve = middle_curve(relations(volumes, 2))
    middle = (KNOT_VALUES > 90) & (KNOT_VALUES < 165)
    slope = np.polyfit(KNOT_VALUES[middle], curve[middle], 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)  # -0.5 as found


def test_a_curve_never_varies_more_than_its_target_domain_nor_is_steepened_without_end(tmp_path):
    """Brains that share nothing relate by chance alone: what noise says is not blown up."""
    noise = [volume(tmp_path, f"n{i}", "t1", 0, 255 * anatomy(i, smooth=False)) for i in range(2)]
    flat = [volume(tmp_path, f"f{i}", "t2", 1, 100 + 4 * anatomy(7 + i, smooth=False)) for i in range(2)]
    curve = middle_curve(relations([*noise, *flat], 2))
    assert np.ptp(curve) < 4 / LEAST_OVERLAP
    assert curve.mean() == pytest.approx(102, abs=1)


def test_pairs_of_one_subject_do_not_count(tmp_path):
    """s0 has both sequences, and they are a lie: the only honest pair of different subjects says otherwise."""
    up, down = 20 + 200 * anatomy(), 220 - 200 * anatomy()
    volumes = [
        volume(tmp_path, "s0", "t1", 0, up),
        volume(tmp_path, "s0", "t2", 1, up),
        volume(tmp_path, "s1", "t2", 1, down),
    ]
    found = relations(volumes, 2)
    np.testing.assert_allclose(middle_curve(found)[SEEN], 240 - KNOT_VALUES[SEEN], atol=256 / BINS)
    alone = relations(volumes[:2], 2)
    assert np.isnan(alone.curves[0, 1]).all()
    assert np.isnan(alone.spreads[0, 1]).all()
    assert np.isfinite(alone.curves[0, 0]).all()


def test_lesions_are_left_out_of_curves_and_averaged_per_subject(tmp_path):
    """A large bright lesion in one subject and a small darker one in the other: 200 and 100 count alike."""
    boxes = []
    for half in (14, 5):
        box = np.zeros(SHAPE, bool)
        box[20 - half : 20 + half, 22 - half : 22 + half, 18 - half : 18 + half] = True
        boxes.append(box)
    up, down = 20 + 200 * anatomy(), 220 - 200 * anatomy()
    volumes = [
        volume(tmp_path, f"a{i}", "t1", 0, np.where(box, grey, up), lesion=box)
        for i, (box, grey) in enumerate(zip(boxes, (200, 100), strict=True))
    ]
    volumes += [volume(tmp_path, f"b{i}", "t2", 1, down) for i in range(2)]
    found = relations(volumes, 2)
    assert found.lesions[0, 0] == pytest.approx(150, abs=1)
    assert found.lesion_spreads[0, 0] == pytest.approx(0, abs=1e-3)
    assert np.isnan(found.lesions[1]).all()
    assert np.isnan(found.lesion_spreads[1]).all()
    np.testing.assert_allclose(middle_curve(found)[SEEN], 240 - KNOT_VALUES[SEEN], atol=256 / BINS)


def test_each_label_of_a_lesion_has_its_own_mean(tmp_path):
    """Label 1 is 60, label 3 is 220; label 2 is not annotated in anyone."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 10:20, 10:20], labels[20:26, 10:20, 10:20] = 1, 3
    up = np.select([labels == 1, labels == 3], [60, 220], 20 + 200 * anatomy())
    volumes = [volume(tmp_path, f"a{i}", "t1", 0, up, lesion=labels) for i in range(2)]
    found = relations(volumes, 1).lesions
    assert found.shape == (1, 3)
    assert found[0, [0, 2]] == pytest.approx([60, 220])
    assert np.isnan(found[0, 1])


def test_one_intensity_near_the_rim_and_deep_inside_goes_with_two(tmp_path):
    """Domain 0 is flat but for noise; domain 1 is 60 at the rim and 180 inside: the rim tells what intensity cannot."""
    shape = (40, 88, 72)
    rows, columns = np.meshgrid(*(np.abs(np.linspace(-1, 1, n)) for n in shape[1:]), indexing="ij")
    inside = np.broadcast_to(np.maximum(rows, columns) < 0.5, shape)
    rng = np.random.default_rng(0)
    volumes = [volume(tmp_path, f"a{i}", "t1", 0, rng.normal(120, 20, shape)) for i in range(2)]
    volumes += [volume(tmp_path, f"b{i}", "t2", 1, np.where(inside, 180, 60)) for i in range(2)]
    curves = relations(volumes, 2).curves[0, 1]
    middle = (KNOT_VALUES > 90) & (KNOT_VALUES < 150)
    assert curves[-1, middle].mean() > 135
    assert curves[2, middle].mean() < 80


def test_rim_window_is_odd_and_about_as_long_as_said():
    for spacing in (1.0, 2.0, 3.0):
        assert rim_window(spacing) % 2 == 1
        assert abs(rim_window(spacing) * spacing - RIM_MM) <= spacing


def test_difference_of_planes_is_the_median_over_the_volumes_of_a_domain(tmp_path):
    """Planes of one value that alternate by 10, 20 and 60 differ by just that."""
    alternate = (np.arange(SHAPE[0]) % 2)[:, None, None] * np.ones(SHAPE)
    volumes = [volume(tmp_path, f"a{i}", "t1", 0, 50 + by * alternate) for i, by in enumerate((10, 20, 60))]
    assert relations(volumes, 1).flickers == [20]
