"""Blending planes, on volumes whose answer is known."""

import numpy as np
import pytest

from ummgat.core.metrics import flicker
from ummgat.model.slice_profile import settled


def noisy(seed=0):
    """Planes that differ by noise; an empty border."""
    volume = np.random.default_rng(seed).integers(60, 200, (10, 12, 14)).astype(np.uint8)
    volume[:, :2] = volume[:2] = 0
    return volume


def test_planes_differ_no_more_than_asked_and_hardly_less():
    volume = noisy()
    level = flicker(volume, volume > 0) * 0.6
    found = settled(volume, level)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found > 0, volume > 0)
    assert 0.97 * level < flicker(found, found > 0) <= 1.01 * level


def test_most_blending_is_the_mean_of_three_planes():
    volume = noisy()
    found = settled(volume, 0.0)
    expected = volume[3:8].astype(float)
    expected = (volume[2:7].astype(float) + expected + volume[4:9]) / 3
    inside = volume[3:8] > 0
    np.testing.assert_allclose(found[3:8][inside], expected[inside], atol=0.51)


def test_background_has_no_part_in_a_blend():
    """A constant brain of any shape stays what it is, next to planes without brain too."""
    volume = np.where(noisy() > 0, 100, 0).astype(np.uint8)
    volume[4, :6] = 0
    volume[5] = np.where(volume[5] > 0, 180, 0)
    found = settled(volume, 0.0)
    inside = volume > 0
    assert found[inside].min() >= 100
    assert found[2:4][inside[2:4]].max() == 100
    assert (found[4, 6:] == round((100 + 100 + 180) / 3)).all()


@pytest.mark.parametrize("level", [np.inf, np.nan, 1e3])
def test_smooth_enough_is_left_alone(level):
    volume = noisy()
    assert settled(volume, level) is volume


def test_volumes_without_neighbouring_brain_are_left_alone():
    empty, lone = np.zeros((3, 4, 4), np.uint8), noisy()
    lone[::2] = 0
    for volume in (empty, lone, noisy()[5:6]):
        assert settled(volume, 0.1) is volume
