import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import slices, tiny_config
from ummgat.core.config import ModelConfig
from ummgat.model.discriminator import Discriminator, brain_centred
from ummgat.model.encoder import SequenceEncoder, unit
from ummgat.model.mapper import Mapper
from ummgat.model.masked import MaskedAdaIN, brain_mask
from ummgat.model.networks import GENERATORS, build_networks, moving_average_of, update_average
from ummgat.model.statistics import BINS, ZONES, brain_coordinates, brain_statistics, local_detail, neighbourhood_mean
from ummgat.model.swin_unet import WindowAttention
from ummgat.model.tone import along_curve

MODEL = tiny_config().model.model_copy(update={"depths": (2, 2), "heads": 2, "window": 3, "code_dim": 5})
UNIT = 4
"""Patch 2 at two scales."""
CLOSE = 5e-4
"""Of [-1, 1]: a sixteenth of a grey level, rounding of 32-bit statistics."""


def images(n, height=24, width=28, seed=0):
    return torch.from_numpy(slices(n, height, width, seed))


def codes(n, seed=0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def indices(n, value):
    return torch.full((n,), value)


@pytest.fixture(params=sorted(GENERATORS))
def generator(request):
    """One of each backbone, with weights that make every part of it matter."""
    nets = build_networks(MODEL.model_copy(update={"generator": request.param}), 2, seed=1)
    for p in nets.generator.parameters():
        if p.ndim == 1:
            nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    nets.generator.head.out.weight.data.mul_(2)
    return nets.generator.eval().requires_grad_(False)


# ---------------------------------------------------------------- generators


def test_every_generator_that_the_config_allows_is_built():
    assert set(GENERATORS) == set(ModelConfig.model_fields["generator"].annotation.__args__)


@pytest.mark.parametrize("size", [(24, 28), (17, 31), (5, 9), (1, 3)])
def test_any_size_in_range_and_background_exact(generator, size):
    x = images(3, *size)
    x[0, 0, 0, 0], x[1] = 0.3, -1  # one corner is brain, one slice has none
    y = generator(x, codes(3), codes(3, 1))
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert torch.equal(y == -1, x == -1)  # tanh does not reach -1 here
    assert y.abs().max() <= 1
    assert x[2].numel() < 50 or y[2][x[2] > -1].std() > 0.01


def test_padding_at_bottom_and_right_changes_nothing(generator):
    x, code = images(2, 22, 27), (codes(2), codes(2, 1))
    padded = F.pad(x, (0, 13, 0, 6), value=-1.0)
    torch.testing.assert_close(generator(padded, *code)[..., :22, :27], generator(x, *code), atol=CLOSE, rtol=0)


def test_cutting_at_the_origin_changes_nothing(generator):
    x, code = images(2, 40, 44), (codes(2), codes(2, 1))
    x[..., :9, :] = x[..., :5] = -1
    cut = x[..., 8:, 4:]
    expected = generator(x, *code)[..., 8:, 4:]
    torch.testing.assert_close(generator(cut, *code, origin=(8, 4)), expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("size", [(24, 28), (5, 9)])
def test_leaving_background_out_changes_nothing(generator, size):
    x, code = images(3, *size), (codes(3), codes(3, 1))
    x[1] = -1  # a slice without brain
    torch.testing.assert_close(generator(x, *code, brain_only=True), generator(x, *code), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", ["swin_unet", "convnext_unet"])
def test_background_is_really_left_out(name):
    """Fewer tokens pass the MLPs of all blocks, and the attention."""
    nets = build_networks(MODEL.model_copy(update={"generator": name}), 2, seed=1)
    rows = []
    for module in nets.generator.modules():
        if isinstance(module, WindowAttention):
            module.qkv.register_forward_hook(lambda layer, inputs, output: rows.append(inputs[0][..., 0].numel()))
        if hasattr(module, "contract"):
            module.contract.register_forward_hook(lambda layer, inputs, output: rows.append(inputs[0][..., 0].numel()))
    x = torch.full((1, 1, 48, 48), -1.0)
    x[..., :9, :9] = 0.5
    with torch.no_grad():
        nets.generator(x, codes(1), codes(1, 1))
        dense, rows[:] = list(rows), []
        nets.generator(x, codes(1), codes(1, 1), brain_only=True)
    assert 0 < sum(rows) < sum(dense) / 3


def test_without_the_origin_attention_windows_would_move():
    nets = build_networks(MODEL, 2, seed=1)
    x, code = images(1, 40, 44), (codes(1), codes(1, 1))
    x[..., :9, :] = x[..., :5] = -1
    whole, moved = nets.generator(x, *code)[..., 8:, 4:], nets.generator(x[..., 8:, 4:], *code)
    assert (whole - moved).abs().max() > 20 * CLOSE


def test_bad_origin_and_bad_shape_are_refused(generator):
    with pytest.raises(ValueError, match=r"Bad origin\. Found \(2, 0\); expected multiples of 4"):
        generator(images(1), codes(1), codes(1), origin=(2, 0))
    with pytest.raises(ValueError, match=r"Bad generator input\. Found shape \(1, 2, 8, 8\)"):
        generator(torch.zeros(1, 2, 8, 8), codes(1), codes(1))


def test_each_image_of_a_batch_follows_its_own_codes(generator):
    """Of the target (0 and 1 differ) and of the source (0 and 3 differ); 2 is 0 again."""
    x = images(1).repeat(4, 1, 1, 1)
    code, source = codes(4), codes(1, 1).repeat(4, 1)
    code[2] = code[3] = code[0]
    source[3] = -source[0]
    y = generator(x, code, source)
    assert (y[0] - y[1]).abs().mean() > 0.01
    assert (y[0] - y[3]).abs().mean() > 0.01
    torch.testing.assert_close(y[0], y[2], atol=CLOSE, rtol=0)
    torch.testing.assert_close(generator(x[:1], code[1:2], source[1:2])[0], y[1], atol=CLOSE, rtol=0)


def test_size_of_a_code_says_nothing(generator):
    """Means of codes, as stored per domain, are shorter than codes."""
    x, code, source = images(2), codes(2), codes(2, 1)
    torch.testing.assert_close(generator(x, 0.5 * code, 3 * source), generator(x, code, source), atol=CLOSE, rtol=0)


def test_given_mask_is_the_brain(generator):
    """A cycle hands on the brain of the source, since a generated pixel may happen to be -1."""
    x = images(1)
    mask = brain_mask(x)
    mask[..., :12, :] = 0
    y = generator(x, codes(1), codes(1, 1), mask)
    assert torch.equal(y == -1, mask == 0)


def test_every_weight_gets_a_finite_gradient(generator):
    """Attention windows without any brain included: the brain fills one corner."""
    generator.requires_grad_(True)
    x = images(2, 24, 28)
    x[..., 12:, :] = x[..., 12:] = -1
    generator(x, codes(2), codes(2, 1)).sum().backward()
    for name, p in generator.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        # A bias added to all keys alike cannot change attention; one before a normalisation is taken out by it.
        assert p.ndim == 1 or p.grad.abs().max() > 0, name


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="Found width 8 with 3 heads; expected a multiple"):
        WindowAttention(8, 3, 4, 0)


# ---------------------------------------------------------------- normalisation


def test_adain_by_hand():
    """h = 1, 3 on the brain: mean 2, deviation 1, so normalised -1, 1."""
    norm = MaskedAdaIN(1, 2)
    with torch.no_grad():
        norm.affine.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # γ = s₀, β = s₁
        norm.affine.bias.zero_()
    h = torch.tensor([1.0, 3.0, 0.0]).view(1, 1, 3, 1)
    mask = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 3, 1)
    out = norm(h, mask, torch.tensor([[0.5, 4.0]]))
    torch.testing.assert_close(out.flatten(), torch.tensor([4 - 1.5, 4 + 1.5, 0.0]), atol=1e-4, rtol=0)


def test_brightness_does_not_depend_on_the_area_of_the_brain():
    """The same checkerboard on an eighth and on all of the slice."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 + 1.0
    small = torch.zeros(16, 16)
    small[:4, :8] = 1
    norm = MaskedAdaIN(1, 3)
    nn.init.normal_(norm.affine.weight, generator=torch.Generator().manual_seed(0))
    code = torch.tensor([[0.3, -1.0, 2.0]])
    few = norm((board * small)[None, ..., None], small[None, ..., None], code)
    many = norm(board[None, ..., None], torch.ones(1, 16, 16, 1), code)
    torch.testing.assert_close(few[:, :4, :8], many[:, :4, :8])
    assert few[:, 4:].abs().max() == 0


def test_empty_brain_normalises_to_zeros():
    out = MaskedAdaIN(2, 3)(torch.zeros(1, 4, 4, 2), torch.zeros(1, 4, 4, 1), torch.ones(1, 3))
    assert torch.equal(out, torch.zeros(1, 4, 4, 2))


# ---------------------------------------------------------------- encoder


def numbered_heads(encoder):
    """Make head k answer k, whatever the image."""
    with torch.no_grad():
        encoder.heads.weight.zero_()
        encoder.heads.bias.copy_(numbered(2 * encoder.n_domains, encoder.code_dim).flatten())


def numbered(n, code_dim):
    """Row k is a code of zero mean that no other row is a multiple of."""
    code = F.one_hot(torch.arange(n) % code_dim, code_dim).float() * (1 + torch.arange(n) // code_dim * -2)[:, None]
    return code - code.mean(1, keepdim=True)


def test_lesion_head_of_domain_y_is_head_y_plus_n():
    encoder = SequenceEncoder(3, (4, 8), 5)
    numbered_heads(encoder)
    y = torch.tensor([0, 1, 2, 0 + 3, 1 + 3, 2 + 3])
    torch.testing.assert_close(encoder(images(6), y), unit(numbered(6, 5)[y]))


def test_encoder_looks_at_its_region_only():
    encoder = build_networks(MODEL, 2, 0).encoder
    a, b = images(2, seed=3)[:, None]
    region = torch.zeros(1, 1, 24, 28)
    region[..., 8:16, 9:20] = 1
    mixed = torch.where(region > 0, a, b)
    assert torch.equal(encoder(a, indices(1, 0), region), encoder(mixed, indices(1, 0), region))
    assert not torch.equal(encoder(a, indices(1, 0)), encoder(mixed, indices(1, 0)))


def test_code_speaks_of_texture_and_hardly_of_the_outline():
    """Grey 0.2 in a disc and in a square are closer than grey 0.2 and 0.6; without pooling inside they would not be."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc, small = (((rows - 30) ** 2 + (columns - 34) ** 2 < r**2).float()[None, None] for r in (24, 12))
    square = torch.zeros(1, 1, 64, 64)
    square[..., 9:47, 6:49] = 1
    encoder = build_networks(tiny_config(model__encoder_widths=[8, 16, 16]).model, 1, 0).encoder.requires_grad_(False)

    def feature(grey, region, pooled_over):
        return encoder.features(torch.where(region > 0, grey, -1.0), pooled_over)

    plain = feature(0.2, disc, disc)
    by_grey = (feature(0.6, disc, disc) - plain).norm()
    assert (feature(0.2, square, square) - plain).norm() < 0.33 * by_grey
    by_size = (feature(0.2, small, small) - plain).norm() / by_grey
    everywhere = torch.ones_like(disc)
    plain = feature(0.2, disc, everywhere)
    by_size_without = (feature(0.2, small, everywhere) - plain).norm() / (feature(0.6, disc, everywhere) - plain).norm()
    assert by_size < 0.5 * by_size_without


def test_same_lesion_mask_with_other_texture_gives_another_code():
    encoder = build_networks(MODEL, 2, 0).encoder.requires_grad_(False)
    region = torch.zeros(1, 1, 24, 28)
    region[..., 6:16, 8:20] = 1
    rows = torch.arange(24.0)[:, None].expand(24, 28)[None, None]
    plain, striped = torch.full_like(region, 0.2), 0.2 + 0.3 * (rows % 2 * 2 - 1)
    seen, other = (encoder.features(x, region) for x in (plain, striped))
    assert (seen - other).norm() > 0.05 * seen.norm()
    assert not torch.equal(*(encoder(x, indices(1, 3), region) for x in (plain, striped)))


@pytest.mark.parametrize("size", [(16, 16), (23, 29), (88, 88), (176, 176), (256, 200)])
def test_encoder_and_discriminator_take_any_size(size):
    nets = build_networks(MODEL.model_copy(update={"discriminator_position": True}), 2, 0)
    x, y = images(2, *size), torch.tensor([0, 1])
    assert nets.encoder(x, y).shape == (2, 5)
    assert nets.discriminator(x, y).shape == (2,)


# ---------------------------------------------------------------- discriminator


@pytest.mark.parametrize("size", [64, 128, 176])
def test_domain_3_at_any_size_is_domain_3(size):
    """Where the map before pooling is larger than 1×1, flattening it would return domain 0 of another pixel."""
    discriminator = Discriminator(4, (4, 4, 4, 4, 4, 4), position=False, statistics=False)
    with torch.no_grad():
        discriminator.head.weight.zero_()
        discriminator.head.bias.copy_(torch.arange(4.0))
    x = images(4, size, size)
    torch.testing.assert_close(discriminator(x, torch.tensor([3, 0, 2, 1])), torch.tensor([3.0, 0, 2, 1]))


@pytest.mark.parametrize("position", [False, True])
def test_logit_is_the_brain_weighted_mean_of_its_domains_map(position):
    update = {"discriminator_position": position, "discriminator_widths": (4, 4, 8, 8)}
    discriminator = build_networks(MODEL.model_copy(update=update), 4, 0).discriminator
    x = images(3, 176, 176)
    mask = brain_mask(x)
    seen = [brain_centred(x, mask, local_detail(x, mask))] + ([brain_coordinates(mask)] if position else [])
    maps = discriminator.head(discriminator.trunk(torch.cat(seen, 1)))
    assert maps.shape == (3, 4, 11, 11)
    weight = mask.view(3, 11, 16, 11, 16).mean((2, 4))
    expected = (maps[:, 3] * weight).sum((1, 2)) / weight.sum((1, 2))
    torch.testing.assert_close(discriminator(x, indices(3, 3)), expected)


@pytest.mark.parametrize("statistics", [False, True])
def test_discriminator_has_a_gradient_in_the_image(statistics):
    update = {"discriminator_position": True, "discriminator_statistics": statistics}
    discriminator = build_networks(MODEL.model_copy(update=update), 2, 0).discriminator
    x = images(2).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x, torch.tensor([0, 1])).sum(), x, create_graph=True)
    gradient.square().sum().backward()  # R1 differentiates it again
    assert torch.isfinite(gradient).all()
    assert gradient[x > -1].abs().max() > 0
    assert torch.isfinite(discriminator.head.weight.grad).all()


def test_statistics_add_their_own_logit():
    update = {"discriminator_statistics": True}
    discriminator = build_networks(MODEL.model_copy(update=update), 3, 0).discriminator
    with torch.no_grad():
        for module in (discriminator.head, discriminator.statistics.out):
            module.weight.zero_()
        discriminator.head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
        discriminator.statistics.out.bias.copy_(torch.tensor([10.0, 20.0, 30.0]))
    torch.testing.assert_close(discriminator(images(3), torch.tensor([2, 0, 1])), torch.tensor([32.0, 10.0, 21.0]))


def test_statistics_are_shares_of_the_brain_per_grey_and_zone():
    """Half of the brain at -1 + 2/15·5 and half at +1: bins 5 and 15 hold 24 · ½ each, over all zones together."""
    x = torch.full((1, 1, 20, 20), -1.0)
    x[..., 2:18, 4:10], x[..., 2:18, 10:16] = -1 + 2 / 15 * 5, 1.0
    mask = brain_mask(x)
    found = brain_statistics(x, mask).view(2, BINS, len(ZONES))
    expected = torch.zeros(BINS)
    expected[5] = expected[15] = 0.5 * 24 * _covered(mask)
    torch.testing.assert_close(found[0].sum(1), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0][5], found[0][15], atol=1e-3, rtol=0)  # the halves are mirror images
    padded = brain_statistics(F.pad(x, (0, 7, 0, 3), value=-1.0), F.pad(mask, (0, 7, 0, 3)))
    torch.testing.assert_close(padded.view(2, BINS, len(ZONES)), found, atol=1e-4, rtol=0)


def _covered(mask):
    """Share of the brain within the zones: a triangle around each, so all up to the last and less beyond."""
    distance = brain_coordinates(mask).square().sum(1).sqrt()[mask[:, 0] > 0]
    return ((1 - (distance - ZONES[-1]).clamp_min(0) / 0.6).clamp_min(0)).mean()


def test_brain_coordinates_are_centred_scaled_and_move_with_the_brain():
    mask = torch.zeros(2, 1, 20, 30)
    mask[0, 0, 4:12, 5:15] = 1
    mask[1, 0, 10:18, 17:27] = 1
    places = brain_coordinates(mask)
    for i in range(2):
        inside = places[i][:, mask[i, 0] > 0]
        torch.testing.assert_close(inside.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(inside.square().mean(1), torch.ones(2), atol=1e-4, rtol=0)
        assert places[i][:, mask[i, 0] == 0].abs().max() == 0
    torch.testing.assert_close(places[0][:, 4:12, 5:15], places[1][:, 10:18, 17:27])
    assert (places[0, 0, 4:12, 5:15].diff(dim=0) > 0).all()  # row first
    assert (places[0, 1, 4:12, 5:15].diff(dim=1) > 0).all()


def test_discriminator_input_is_zero_in_the_background():
    x = images(2)
    mask = brain_mask(x)
    assert brain_centred(x, mask, local_detail(x, mask))[(x == -1).expand(-1, 2, -1, -1)].abs().max() == 0


@pytest.mark.parametrize("shape", [(2, 1, 9, 12), (1, 2, 3, 2), (1, 1, 1, 8)])
def test_neighbourhood_mean_is_the_pooling_it_replaces(shape):
    """With both gradients: R1 differentiates it twice; and in images smaller than the neighbourhood."""
    t = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    weights = torch.linspace(-1, 2, t.numel(), dtype=torch.float64).view(shape)

    def gradients(mean):
        (first,) = torch.autograd.grad((mean(t).pow(3) * weights).sum(), t, create_graph=True)
        return mean(t), first, *torch.autograd.grad((first * weights).sum(), t)

    expected = gradients(lambda t: F.avg_pool2d(t, 7, stride=1, padding=3))
    for one, other in zip(gradients(lambda t: neighbourhood_mean(t, 7)), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_statistics_take_what_the_discriminator_has_already():
    x = images(2)
    mask = brain_mask(x)
    own = brain_statistics(x, mask)
    torch.testing.assert_close(brain_statistics(x, mask, brain_coordinates(mask), local_detail(x, mask)), own)
    assert not torch.equal(brain_statistics(x, mask, 2 * brain_coordinates(mask)), own)
    assert not torch.equal(brain_statistics(x, mask, detail=2 * local_detail(x, mask)), own)


# ---------------------------------------------------------------- mapper


def test_mapper_answers_with_the_branch_of_the_domain():
    mapper = Mapper(3, 4, 8, 5)
    with torch.no_grad():
        for i, branch in enumerate(mapper.branches):
            branch[-1].weight.zero_()
            branch[-1].bias.copy_(numbered(3, 5)[i])
    y = torch.tensor([2, 0, 1])
    torch.testing.assert_close(mapper(torch.randn(3, 4), y), unit(numbered(3, 5)[y]))


def test_only_the_drawn_branch_learns():
    mapper = build_networks(MODEL, 3, 0).mapper
    mapper(torch.randn(4, 4), indices(4, 1))[:, 0].sum().backward()
    learnt = [bool(branch[-1].weight.grad.abs().max() > 0) for branch in mapper.branches]
    assert learnt == [False, True, False]
    assert mapper.shared[0].weight.grad.abs().max() > 0


# ---------------------------------------------------------------- initialisation and moving average


def test_he_initialisation_and_zero_biases():
    """Standard deviation √(2 / inputs per output), on weights with enough numbers; last layers and AdaIN start smaller.

    Biases are 0 but those that set where the codes of a domain start.
    """
    update = {
        "width": 32,
        "pixel_width": 32,
        "code_dim": 32,
        "encoder_widths": (32, 64),
        "discriminator_widths": (32, 256),
        "mapper_width": 64,
        "discriminator_position": True,
        "discriminator_statistics": True,
    }
    nets = build_networks(MODEL.model_copy(update=update), 4, 7)
    factors = {"head.weight": 0.1, "statistics.out.weight": 0.1, "affine.weight": 0.3, "tone.knots.weight": 0.1}
    measured = dict.fromkeys([*factors, "other"], 0)
    for group, module in nets.named():
        for name, p in module.named_parameters():
            if (group, name) == ("encoder", "heads.bias"):
                assert p[4 * 32 :].abs().max() == 0  # of lesion heads
            elif group == "mapper" and name.startswith("branches") and name.endswith("2.bias"):
                continue
            elif group == "encoder" and name == "heads.weight":
                assert p[: 4 * 32].std().item() == pytest.approx(0.3 * (2 / 64) ** 0.5, rel=0.15)
                assert p[4 * 32 :].std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.15)
            elif group == "mapper" and name.startswith("branches") and name.endswith("2.weight"):
                assert p.std().item() == pytest.approx(0.3 * (2 / 64) ** 0.5, rel=0.15)
            elif p.ndim < 2:
                assert p.abs().max() == 0, (group, name)
            elif p.numel() >= 500:
                kind = next((end for end in factors if name.endswith(end)), "other")
                expected = factors.get(kind, 1.0) * (2 / p[0].numel()) ** 0.5
                assert p.std().item() == pytest.approx(expected, rel=0.15), (group, name)
                assert abs(p.mean().item()) < 0.15 * expected, (group, name)
                measured[kind] += 1
    assert min(measured.values()) >= 1
    assert measured["other"] > 30


def test_codes_of_a_domain_start_alike_in_e_and_m_and_apart_from_other_domains():
    nets = build_networks(MODEL.model_copy(update={"code_dim": 64, "encoder_widths": (16, 64)}), 3, 0)
    y = torch.arange(3)
    drawn = nets.mapper(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), y)
    read = nets.encoder(images(3), y)
    apart = torch.cdist(drawn, read)
    assert (apart.diagonal() < 0.7 * (apart + 99 * torch.eye(3)).min(1).values).all()


def test_tone_curve_by_hand():
    """Knots at -1, 0, 1: 0.25 lies a quarter of the way from 0 to 1."""
    x = torch.tensor([[[-1.0, 0.0], [0.25, 1.0]], [[-0.5, 0.5], [1.0, 1.0]]])[:, None]
    knots = torch.tensor([[3.0, 1.0, -1.0], [0.0, 2.0, 2.0]])
    expected = torch.tensor([[[3.0, 1.0], [0.5, -1.0]], [[1.0, 2.0], [2.0, 2.0]]])[:, None]
    torch.testing.assert_close(along_curve(x, knots), expected)
    x.requires_grad_()
    along_curve(x, knots).sum().backward()
    assert x.grad[0, 0, 1, 0] == -2  # slope of the piece it lies on


def test_output_of_a_fresh_generator_is_in_the_linear_part_of_tanh():
    for name in GENERATORS:
        nets = build_networks(MODEL.model_copy(update={"generator": name}), 2, 0)
        x = images(4)
        assert nets.generator(x, codes(4), codes(4, 1))[x > -1].abs().quantile(0.9) < 0.8


def test_networks_follow_from_the_seed_alone():
    torch.manual_seed(5)
    a = build_networks(MODEL, 2, 3)
    torch.manual_seed(6)
    torch.randn(7)
    b, other = build_networks(MODEL, 2, 3), build_networks(MODEL, 2, 4)
    for (name, m), (_, n), (_, o) in zip(a.named(), b.named(), other.named(), strict=True):
        states = m.state_dict(), n.state_dict(), o.state_dict()
        for key, value in states[0].items():
            assert torch.equal(value, states[1][key]), (name, key)
        assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items()), name


def test_moving_average_starts_at_initialisation_without_gradients_or_discriminator():
    nets = build_networks(MODEL, 2, 0)
    average = moving_average_of(nets)
    assert [name for name, _ in average.named()] == ["generator", "encoder", "mapper"]
    for name, module in average.named():
        for (key, p), q in zip(module.named_parameters(), getattr(nets, name).parameters(), strict=True):
            assert torch.equal(p, q), (name, key)
            assert p.data_ptr() != q.data_ptr()
            assert not p.requires_grad
    assert all(p.requires_grad for _, module in nets.named() for p in module.parameters())


def test_moving_average_by_hand():
    """0.75 of the average plus 0.25 of the networks, twice: 1 → 1.5 → 1.875 for networks at 3."""
    nets = build_networks(MODEL, 2, 0)
    average = moving_average_of(nets)
    with torch.no_grad():
        for _, module in average.named():
            for p in module.parameters():
                p.fill_(1)
        for _, module in nets.named():
            for p in module.parameters():
                p.fill_(3)
    before = copy.deepcopy(nets)
    for expected in (1.5, 1.875):
        update_average(average, nets, 0.75)
        for _, module in average.named():
            for p in module.parameters():
                assert torch.equal(p, torch.full_like(p, expected))
    for (_, a), (_, b) in zip(nets.named(), before.named(), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
