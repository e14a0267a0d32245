"""A packed cohort, batches drawn from it on a device, and a training run in pieces."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import tiny_config
from ummgat.core.config import Config
from ummgat.core.draw import make_draw
from ummgat.core.files import write_json
from ummgat.core.study import load_cohort
from ummgat.core.tensors import save_tensors
from ummgat.model.networks import build_networks
from ummgat.model.weights import load_model
from ummgat.phantom import PhantomConfig, write_phantom
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.train.atlas_learning import training_atlas
from ummgat.train.device_sampler import CHANCES, DeviceSampler, move_grid
from ummgat.train.loop import expectations
from ummgat.train.overrides import as_toml
from ummgat.train.packed_cohort import load_packed, pack
from ummgat.train.relation import relations
from ummgat.train.slices import SliceSampler, index_volumes
from ummgat.train.step import Optimizers, Step

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import train_in_pieces

CPU = torch.device("cpu")

SEQUENCES = ("t1", "t2")


def whole_config(**changes):
    """Everything that a captured step does, in miniature."""
    settings = {
        "data__spacing_mm": 3.0,
        "data__crop": [64, 64],
        "model__atlas": True,
        "model__neighbours": True,
        "model__gate": "code",
        "loss__relation": 4.0,
        "loss__relation_kept": 0.5,
        "loss__labels": 1.0,
        "loss__segmentation": 1.0,
        "loss__back": 1.0,
        "loss__own": 1.0,
        "loss__contrast": 0.2,
        "loss__structure": 1.0,
        "loss__detail": 1.0,
        "loss__lesion": 0.0,
        "loss__opening": [0.0, 0.01],
        "data__augment": 0.5,
        "data__warp": 0.3,
    }
    return tiny_config(**settings | changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Draw, volumes, atlas, the cohort packed in two files, and its folder: four phantoms of one center at 3 mm."""
    folder = tmp_path_factory.mktemp("packed")
    phantom = PhantomConfig(
        n_subjects={"A": 4},
        n_test={"A": 1},
        n_selection={"A": 1},
        sequences={"A": SEQUENCES},
        spacing_mm=3.0,
        draw="all",
    )
    write_phantom(folder / "phantom", phantom)
    split = folder / "phantom" / "split.json"
    settings = PrepareSettings(spacing_mm=3.0, centers=split)
    assert not prepare_cohort(folder / "phantom" / "studies", folder / "cohort", settings).failed
    studies = load_cohort(folder / "cohort")
    draw = make_draw(studies, "all", 0, split_file=split)
    volumes = index_volumes(studies, draw, whole_config().data)
    atlas = training_atlas(volumes, len(draw.table), folder / "atlas.safetensors")
    subjects = sorted({v.study.subject for v in volumes})
    files = []
    for i in range(2):
        files.append(folder / f"part{i + 1}.safetensors")
        own = [v for v in volumes if v.study.subject in subjects[i::2]]
        pack(own, draw.table.names, atlas.expected, whole_config().data.crop, files[-1])
    return draw, volumes, atlas, files, folder


def plain(config):
    return config.data.model_copy(update={"augment": 0.0, "warp": 0.0, "atlas_dropped": 0.0, "atlas_shifted": 0.0})


def test_a_device_draws_what_the_processor_draws(world):
    draw, volumes, atlas, files, _ = world
    packed = load_packed(files)
    order = {(v.subject, v.sequence): i for i, v in enumerate(packed.volumes)}
    own = sorted(volumes, key=lambda v: order[v.study.subject, v.sequence])
    config = whole_config()
    usual = SliceSampler(own, len(draw.table), plain(config), 3, atlas.expected, near=True).batch(7, 12, 4, paired=True)
    there = DeviceSampler(packed, plain(config), 3, CPU).batch(7, 12, 4, paired=True)
    assert np.array_equal(usual.y_src, there.y_src)
    assert np.array_equal(usual.y_trg, there.y_trg)
    for name in ("x_src", "x_ref", "x_true"):
        expected, found = getattr(usual, name), getattr(there, name).numpy()
        assert np.array_equal(expected > -1, found > -1), name
        assert np.abs(expected - found).max() < 16 / 127.5, name
        assert np.abs(expected - found)[expected > -1].mean() < 2.5 / 127.5, name
    assert np.array_equal(usual.labels_src, there.labels_src)
    assert np.array_equal(usual.labels_ref, there.labels_ref)
    assert there.labels_ref.unique().numel() > 2


def test_the_atlas_lies_on_a_slice_where_the_processor_puts_it(world):
    """Of subjects whose atlas came with the same volume."""
    draw, volumes, atlas, files, _ = world
    packed = load_packed(files)
    order = {(v.subject, v.sequence): i for i, v in enumerate(packed.volumes)}
    own = sorted(volumes, key=lambda v: order[v.study.subject, v.sequence])
    first = {v.subject: (v.subject, v.sequence) for v in reversed(packed.volumes)}
    config = whole_config()
    usual = SliceSampler(own, len(draw.table), plain(config), 3, atlas.expected)
    there = DeviceSampler(packed, plain(config), 3, CPU)
    compared = 0
    for step in range(12):
        rng = np.random.default_rng([3, step])
        drawn, y_src, y_trg = usual.draw(rng, 4)
        batch = there.batch(step, 4, 4)
        for i, (source, _) in enumerate(drawn):
            key = source.volume.study.subject, source.volume.sequence
            if first[key[0]] != key:
                continue
            expected = usual.maps(source, (int(y_src[i]), int(y_trg[i])))
            brain = batch.x_clean[i, 0].numpy() > -1
            difference = np.abs(expected - batch.atlas_src[i, :2].numpy())[:, brain]
            if expected[:, brain].any():
                assert difference.mean() < 6 / 127.5
                compared += 1
    assert compared > 3


def test_a_batch_is_a_function_of_seed_and_step(world):
    packed, config = load_packed(world[3]), whole_config()
    one, again, later = (DeviceSampler(packed, config.data, 3, CPU).batch(step, 6, 4) for step in (5, 5, 6))
    for name, value in one._asdict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(one.x_src, later.x_src)


def test_variation_keeps_background_and_scale(world):
    packed, config = load_packed(world[3]), whole_config(data__augment=1.0, data__warp=1.0)
    batch = DeviceSampler(packed, config.data, 3, CPU).batch(2, 8, 4, paired=True)
    for name in ("x_src", "x_clean", "x_tone", "x_same", "x_true"):
        image = getattr(batch, name)
        assert image.min() == -1
        assert image.max() <= 1
    assert torch.equal(batch.x_src > -1, batch.x_clean > -1)
    assert not torch.equal(batch.x_src, batch.x_clean)


def test_a_move_without_turn_scale_or_shift_moves_nothing():
    middle = torch.full((2, len(CHANCES)), 0.5)
    x = torch.rand(2, 1, 20, 24)
    moved = torch.nn.functional.grid_sample(x, move_grid(middle, (20, 24)), align_corners=True)
    assert torch.allclose(moved, x, atol=1e-5)


def test_files_of_different_draws_are_refused(world, tmp_path):
    _, volumes, atlas, files, _ = world
    pack(volumes[:1], ["other"], atlas.expected, (64, 64), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="do not belong together"):
        load_packed([*files, tmp_path / "other.safetensors"])


class Waits(TorchDispatchMode):
    """Collects operations for which a processor would have to wait for an accelerator, or that a graph cannot hold."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = str(function).split(".")[1]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            t is not None and t.dtype == torch.bool for t in arguments[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
            self.found.add(name)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("schedule", ["alternating", "mixed"])
def test_no_step_waits_for_the_device(world, schedule):

    draw, volumes, atlas, files, _ = world
    config = whole_config(train__schedule=schedule, loss__pairs=1.0, train__iterations=2000)
    packed = load_packed(files)
    sampler = DeviceSampler(packed, config.data, 0, CPU)
    nets = build_networks(config.model, len(draw.table), 0)
    expected = expectations(config, draw.table, relations(volumes, len(draw.table)), atlas.atlas, CPU)
    # On a processor Adam counts its steps there; on an accelerator it is told not to (`capturable`).
    optimizers = Optimizers(*(SGD(module.parameters(), lr=1e-3) for _, module in nets.named()))
    step = Step(nets, optimizers, config, lambda parameters: None, expected)
    seen = set()
    for number in range(100, 116):
        batch = sampler.batch(number, 2, config.model.latent_dim, paired=schedule == "mixed")
        with Waits() as waits:
            seen |= set(step.run(batch, number))
        assert not waits.found, (number, waits.found)
    assert {"cycle", "back", "contrast", "own", "labels", "atlas", "segmentation", "r1"} <= seen


def test_a_run_in_pieces_packs_trains_goes_on_and_finishes(world, tmp_path):

    draw = world[0]
    write_json(tmp_path / "draw.json", draw.model_dump(mode="json"))
    config = whole_config(train__iterations=5)
    (tmp_path / "config.toml").write_text(as_toml(config))
    there, packed = tmp_path / "there", tmp_path / "packed"
    main = train_in_pieces.main
    common = ["--data", str(world[4] / "cohort"), "--draw", str(tmp_path / "draw.json")]
    common += ["--atlas", str(world[4] / "atlas.safetensors")]
    main(["pack", str(tmp_path / "config.toml"), *common, "--out", str(packed), "--parts", "2"])
    run = ["run", "--packed", str(packed), "--out", str(there), "--device", "cpu", "--optimizers", "--log-every", "1"]
    main([*run, "--set", "train.iterations=3"])
    assert json.loads((there / "record.json").read_text())["slices_per_s"] > 0
    half = train_in_pieces.load_pieces(there)
    assert half["step"] == 3
    # A run's length is kept in its state: asked for in the first piece.
    main([*run, "--minutes", "5"])
    assert train_in_pieces.load_pieces(there)["step"] == 3
    main(["finish", str(there), "--packed", str(packed), *common, "--out", str(tmp_path / "run")])

    model = load_model(tmp_path / "run" / "last.safetensors")
    assert model.training["steps"] == 3
    assert model.atlas is not None
    small = load_model(tmp_path / "run" / "packed.safetensors")
    assert small.atlas.brain.size < model.atlas.brain.size
    assert (tmp_path / "run" / "packed.safetensors").stat().st_size < (
        tmp_path / "run" / "last.safetensors"
    ).stat().st_size
    weight = half["tensors"]["average.generator.embed.weight"]
    assert torch.equal(model.nets.generator.embed.weight, weight)


def test_a_continued_run_is_the_run(world, tmp_path):
    """Two pieces give the same weights as one, on one processor."""
    draw = world[0]

    write_json(tmp_path / "draw.json", draw.model_dump(mode="json"))

    (tmp_path / "config.toml").write_text(as_toml(whole_config(train__iterations=4)))
    packed = tmp_path / "packed"
    common = ["--data", str(world[4] / "cohort"), "--draw", str(tmp_path / "draw.json")]
    common += ["--atlas", str(world[4] / "atlas.safetensors")]
    train_in_pieces.main(["pack", str(tmp_path / "config.toml"), *common, "--out", str(packed)])
    ends = []
    for name, stops in (("one", [4]), ("two", [2, 4])):
        for stop in stops:
            train_in_pieces.main(
                [
                    *("run", "--packed", str(packed), "--out", str(tmp_path / name), "--device", "cpu"),
                    *("--optimizers", "--stop-after", str(stop), "--log-every", "1"),
                ]
            )
        ends.append(train_in_pieces.load_pieces(tmp_path / name))
    assert ends[0]["step"] == ends[1]["step"] == 4
    assert all(torch.equal(ends[0]["tensors"][k], ends[1]["tensors"][k]) for k in ends[0]["tensors"])


def test_a_state_with_a_piece_missing_is_refused(tmp_path):

    told = {"format": train_in_pieces.STATE, "step": 3, "pieces": 2, "config": Config().model_dump(mode="json")}
    save_tensors(tmp_path / "piece1.safetensors", {"a": torch.zeros(1)}, told)
    with pytest.raises(ValueError, match="State is incomplete"):
        train_in_pieces.load_pieces(tmp_path)
