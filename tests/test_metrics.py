import numpy as np
import pytest
import torch

from conftest import slices
from ummgat.core.matching import intensity_histogram, match_histogram
from ummgat.core.metrics import flicker, gradient_energy, image_scores, rank_correlation, ssim_map
from ummgat.model.random_features import RandomFeatures, kernel_distance

SHAPE = (4, 16, 18)


@pytest.fixture
def brain():
    mask = np.zeros(SHAPE, bool)
    mask[:, 3:13, 2:15] = True
    return mask


@pytest.fixture
def volume(brain):
    """uint8 with brain 1–255."""
    grey = np.random.default_rng(0).integers(1, 256, SHAPE)
    return np.where(brain, grey, 0).astype(np.uint8)


# ---------------------------------------------------------------- image scores


def test_identical_images(volume, brain):
    scores = image_scores(volume, volume, ssim_map(volume, volume), brain)
    assert scores == pytest.approx((0.0, 1.0, 1.0, np.inf))


def test_known_error_everywhere(volume, brain):
    """Half of the voxels 3 too high, half 3 too low: MAE 3, PSNR 20·log10(255/3)."""
    truth = np.where(brain, 10 + volume.astype(int) % 200, 0)
    image = truth + np.where(np.indices(SHAPE).sum(0) % 2, 3, -3) * brain
    scores = image_scores(image, truth, ssim_map(image, truth), brain)
    assert scores.mae == 3
    assert scores.psnr == pytest.approx(20 * np.log10(85))
    assert 0.9 < scores.ssim < 1


def test_inverted_contrast_has_correlation_minus_1(volume, brain):
    inverted = np.where(brain, 256 - volume.astype(int), 0)
    scores = image_scores(inverted, volume, ssim_map(inverted, volume), brain)
    assert scores.correlation == pytest.approx(-1)
    assert scores.ssim < 0.2


def test_scores_look_at_their_region_only(volume, brain):
    region = brain.copy()
    region[..., 9:] = False
    spoilt = np.where(region, volume, 255)
    assert image_scores(spoilt, volume, np.where(region, 1.0, -1.0), region) == pytest.approx((0, 1, 1, np.inf))


def test_uint8_does_not_wrap_around(brain):
    dark, bright = np.where(brain, 1, 0).astype(np.uint8), np.where(brain, 255, 0).astype(np.uint8)
    assert image_scores(dark, bright, ssim_map(dark, bright), brain).mae == 254


def test_ssim_of_two_flat_planes_by_hand():
    """Without structure only the luminance term is left: (2ab + C) / (a² + b² + C), C = (0.01·255)²."""
    a, b = np.full((1, 9, 9), 50.0), np.full((1, 9, 9), 100.0)
    c = 2.55**2
    np.testing.assert_allclose(ssim_map(a, b), (2 * 50 * 100 + c) / (50**2 + 100**2 + c))


def test_empty_region_and_constant_image_have_no_score(volume, brain):
    assert np.isnan(image_scores(volume, volume, volume, np.zeros(SHAPE, bool))).all()
    flat = np.where(brain, 7, 0)
    assert np.isnan(image_scores(flat, volume, ssim_map(flat, volume), brain).correlation)


# ---------------------------------------------------------------- flicker and blur


def test_flicker_of_a_ramp_through_planes(brain):
    """5 grey levels from plane to plane; what happens outside the brain does not count."""
    ramp = np.broadcast_to(5.0 * np.arange(4)[:, None, None], SHAPE).copy()
    ramp[~brain] = np.random.default_rng(0).uniform(0, 255, (~brain).sum())
    assert flicker(ramp, brain) == 5


def test_flicker_counts_only_voxels_that_are_brain_in_both_planes():
    brain = np.array([[[1, 1, 0]], [[1, 0, 1]]], bool)
    assert flicker(np.array([[[10, 0, 0]], [[17, 99, 99]]]), brain) == 7


def test_gradient_energy_of_a_ramp_within_planes(brain):
    """3 per row, 4 per column: mean of 9 and 16 over nearly as many pairs; nothing across the edge of the brain."""
    rows, columns = np.indices(SHAPE)[1:]
    ramp = 3.0 * rows + 4.0 * columns
    ramp[~brain] = 1e6
    n_rows, n_columns = 9 * 13, 10 * 12
    assert gradient_energy(ramp, brain) == pytest.approx((9 * n_rows + 16 * n_columns) / (n_rows + n_columns))


def test_blur_lowers_gradient_energy(volume, brain):
    grey = volume.astype(float)
    blurred = (grey + np.roll(grey, 1, 1) + np.roll(grey, 1, 2)) / 3
    assert gradient_energy(blurred, brain) < 0.6 * gradient_energy(grey, brain)


def test_rank_correlation_sees_order_alone():
    a = np.array([1.0, 2, 3, 4])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -(a**3)) == pytest.approx(-1)
    assert rank_correlation(a, np.array([2.0, 1, 4, 3])) == pytest.approx(0.6)  # 1 - 6·4 / (4·15)
    assert np.isnan(rank_correlation(a, np.ones(4)))


# ---------------------------------------------------------------- kernel distance


def test_kernel_distance_by_hand():
    """Two copies each of a = 1 and b = 2 in one dimension: k = (xy + 1)³, so 8 + 125 - 2·27."""
    assert kernel_distance(np.ones((2, 1)), np.full((2, 1), 2.0)) == pytest.approx(8 + 125 - 2 * 27)


def test_kernel_distance_leaves_out_each_sample_with_itself():
    """Unbiased: of a = {1, -1} only k(1, -1) = 0 counts, not k(1, 1) = 8."""
    a, b = np.array([[1.0], [-1.0]]), np.zeros((2, 1))
    assert kernel_distance(a, b) == pytest.approx(0 + 1 - 2 * 1)


def test_kernel_distance_is_about_0_for_one_distribution_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    a, b, shifted = rng.normal(size=(300, 8)), rng.normal(size=(300, 8)), rng.normal(size=(300, 8))
    same = [kernel_distance(a[i : i + 100], b[i : i + 100]) for i in (0, 100, 200)]
    assert abs(np.mean(same)) < 0.05
    distances = [kernel_distance(a, shifted + by) for by in (0.5, 1.0, 2.0)]
    assert 0.3 < distances[0] < distances[1] < distances[2]


def test_kernel_distance_of_one_image_is_refused():
    with pytest.raises(ValueError, match=r"Too few images for a kernel distance\. Found 1 and 5"):
        kernel_distance(np.ones((1, 3)), np.ones((5, 3)))


def test_features_are_fixed_and_tell_brightness_and_texture():
    x = torch.from_numpy(slices(2, 32, 32))
    features = RandomFeatures()
    a = features(x)
    torch.manual_seed(99)
    assert a.shape == (2, 2 * 4 * 32)
    assert torch.equal(RandomFeatures()(x), a)
    brain = x > -1
    for other in (torch.where(brain, x + 0.2, -1.0), torch.where(brain, -x, -1.0)):
        assert (features(other) - a).norm(dim=1).min() > 0.1 * a.norm(dim=1).max()


def test_features_of_an_empty_slice_are_finite():
    assert torch.isfinite(RandomFeatures()(torch.full((1, 1, 16, 16), -1.0))).all()


# ---------------------------------------------------------------- histogram matching


def test_histogram_sums_to_1_and_leaves_background_out(volume, brain):
    histogram = intensity_histogram([volume, volume])
    assert histogram.shape == (256,)
    assert histogram.sum() == pytest.approx(1)
    assert histogram[0] == 0
    assert histogram[volume[brain][0]] == pytest.approx((volume == volume[brain][0]).sum() / brain.sum())


def test_volume_of_the_target_distribution_is_mapped_onto_itself(volume):
    np.testing.assert_array_equal(match_histogram(volume, intensity_histogram([volume])), volume)


def test_halved_volume_is_mapped_back(brain):
    """Each grey of 2, 4, …, 200 equally often, halved: matching doubles it again."""
    target = np.zeros(SHAPE, np.uint8)
    target[brain] = np.resize(np.arange(2, 202, 2), brain.sum())
    np.testing.assert_array_equal(match_histogram(target // 2, intensity_histogram([target])), target)


def test_matching_is_monotone_and_keeps_background(volume, brain):
    target = np.clip(np.random.default_rng(1).normal(180, 20, SHAPE), 1, 255).astype(np.uint8)
    matched = match_histogram(volume, intensity_histogram([target]))
    assert matched.dtype == np.uint8
    assert ((matched == 0) == ~brain).all()
    order = np.argsort(volume[brain], kind="stable")
    assert (np.diff(matched[brain][order].astype(int)) >= 0).all()
    assert abs(matched[brain].mean() - 180) < 2
