"""Features by name: shapes, independence of what must not matter, and who may be called FID."""

import re

import numpy as np
import pytest
import torch

from ummgat.model.masked import to_unit
from ummgat.model.random_features import RandomFeatures
from ummgat.quality import inception as inception_module
from ummgat.quality.features import Extractor, inception_fid, random_convolutions, segmenter_bottleneck
from ummgat.quality.inception import FidInception, load_fid_inception
from ummgat.segment.unet import SegmenterConfig, UnetSegmenter, build_unet


def segmenter(**changes):
    config = SegmenterConfig(widths=(4, 4, 8, 8, 8), **changes)
    return UnetSegmenter(build_unet(config).eval(), config, {})


def brains(n=3, rows=40, columns=36, seed=0):
    out = np.zeros((n, rows, columns), np.uint8)
    rng = np.random.default_rng(seed)
    out[:, 6:30, 5:31] = rng.integers(1, 255, (n, 24, 26))
    return out


# ---------------------------------------------------------------- offline


def test_each_has_a_name_and_gives_what_it_promises():
    for extractor in (segmenter_bottleneck(segmenter()), random_convolutions()):
        found = extractor(brains(18))  # more than a batch
        assert found.shape == (18, extractor.n)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found[:2], extractor(brains(18)[:2]), rtol=1e-5, atol=1e-6)
        assert found.std(0).max() > 0
        assert (extractor.frechet, extractor.kernel) == ("Fréchet distance", "kernel distance")
        assert "not FID" in extractor.description
        assert extractor(brains(1)[:0]).shape == (0, extractor.n)
        with pytest.raises(ValueError, match=r"Found float64 \(2, 3\)"):
            extractor(np.zeros((2, 3)))


def test_random_features_are_those_of_validation():
    x = brains()
    expected = RandomFeatures()(torch.from_numpy(to_unit(x))[:, None]).numpy()
    np.testing.assert_allclose(random_convolutions()(x), expected, rtol=1e-6)


def test_bottleneck_is_the_deepest_stage_of_this_very_network():
    """Against a hook in a whole forward pass, pooled by hand; the image fills its frame, so pooling is the plain
    mean.
    """
    own = segmenter()
    x = np.maximum(brains(2, 48, 32), 1)
    kept = []
    handle = own.net.down_4.register_forward_hook(lambda *a: kept.append(a[-1]))
    channels = 4 * own.config.planes
    own.net(torch.from_numpy((x.astype(np.float32) - 128) / 50)[:, None].repeat(1, channels, 1, 1))
    handle.remove()
    expected = kept[0].detach().mean((2, 3)).numpy()
    np.testing.assert_allclose(segmenter_bottleneck(own)(x), expected, rtol=1e-4, atol=1e-6)


def test_bottleneck_pools_over_brain_only():
    """Features change with the brain's texture; what lies where there is no brain has no weight."""
    own = segmenter()
    handle = own.net.down_4.register_forward_hook(lambda *a: a[-1].index_fill_(3, torch.tensor([3]), 1e6))
    x = np.zeros((1, 64, 64), np.uint8)
    x[:, :, :48] = brains(1, 64, 48, 1).clip(1)  # the last quarter of the columns is background
    found = segmenter_bottleneck(own)(x)
    handle.remove()
    assert np.abs(found).max() < 1e3


def test_a_segmenter_of_volumes_is_refused():
    deep = SegmenterConfig(dimensions=3, planes=1, crop=(32, 32, 32), widths=(4, 4, 4, 4, 4))
    with pytest.raises(ValueError, match="Found 3 dimensions; expected 2"):
        segmenter_bottleneck(UnetSegmenter(torch.nn.Identity(), deep, {}))


# ---------------------------------------------------------------- Inception


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FidInception().eval()


def test_inception_has_the_published_numbers(net):
    """Without classifier, 21,802,784 is printed for the Keras network: per channel of its batch norms an offset, a mean
    and a variance, of which 34,432 are not trained, so 17,216 channels. Ours has scales too: in parameters, scale and
    offset."""
    channels = sum(m.num_features for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    convolutions = sum(m.weight.numel() for m in net.modules() if isinstance(m, torch.nn.Conv2d))
    assert channels == 34_432 // 2
    assert convolutions + 3 * channels == 21_802_784
    assert sum(p.numel() for p in net.parameters()) == convolutions + 2 * channels == 21_785_568
    assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) == 94


def test_inception_names_are_those_of_the_file(net):
    shapes = {name: tuple(p.shape) for name, p in net.state_dict().items()}
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)
    assert shapes["Mixed_6e.branch7x7_2.conv.weight"] == (192, 192, 1, 7)
    assert shapes["Mixed_7a.branch7x7x3_4.bn.running_var"] == (192,)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    tops = {re.split(r"\.", name)[0] for name in shapes}
    assert len(tops) == 16


def test_inception_shapes_and_poolings_of_2015(net):
    sizes = {}
    handles = [
        getattr(net, name).register_forward_hook(
            lambda m, i, out, name=name: sizes.update({name: tuple(out.shape[1:])})
        )
        for name in ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    ]
    with torch.inference_mode():
        out = net(torch.zeros(1, 3, 299, 299))
    for handle in handles:
        handle.remove()
    assert out.shape == (1, 2048)
    assert sizes == {
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }
    assert (net.Mixed_7b.by_maximum, net.Mixed_7c.by_maximum) == (False, True)
    ones = inception_module._mean_pool(torch.ones(1, 1, 3, 3))
    assert torch.equal(ones, torch.ones_like(ones))  # padding is not counted


def test_another_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / inception_module.WEIGHTS  # the right name, another content
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("was read"))
    with pytest.raises(ValueError, match=r"Not the Inception weights of FID.*expected one that starts with 6726825d"):
        inception_fid(path)
    with pytest.raises(FileNotFoundError, match="Inception weights are missing"):
        load_fid_inception(tmp_path / "nothing.pth")


def test_a_state_dict_with_classifier_loads_and_only_this_is_called_fid(tmp_path, monkeypatch, net):
    """The hash is set to that of a file of random weights: loading, scaling and naming are tested, not the numbers."""
    import hashlib

    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "weights.pth"
    torch.save(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    monkeypatch.setattr(inception_module, "SHA256_START", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    extractor = inception_fid(path)
    assert isinstance(extractor, Extractor)
    assert (extractor.frechet, extractor.kernel, extractor.n, extractor.standardise) == ("FID", "KID", 2048, False)
    assert "numerically unverified" in extractor.description
    flat = np.full((1, 10, 10), 255, np.uint8)
    with torch.inference_mode():
        expected = net(torch.ones(1, 3, 299, 299)).numpy()
    np.testing.assert_allclose(extractor(flat), expected, rtol=1e-4, atol=1e-5)
    torch.save({k: v for k, v in state.items() if "Mixed_7c" not in k}, path)
    monkeypatch.setattr(inception_module, "SHA256_START", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    with pytest.raises(ValueError, match="Inception weights do not fit"):
        load_fid_inception(path)
