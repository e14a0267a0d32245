"""Literal fp32 schedule against the default one: same networks, same batches, one process, steps taken in turn.

Usage: python benchmarks/train_step.py [--preset small] [--rounds 3] [--threads 0] [--json FILE]

Prints seconds and FLOPs per iteration of each, the share of this machine's measured matrix-product rate, and the ratio.
FLOPs are those of matrix products, convolutions and attention, backward included, as `counting` has them.
"""

import copy
import json
import math
import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from counting import CountOperators, matmul_rate, synchronize
from options import common_parser, parsed
from ummgat.core.config import Config, TrainConfig, load_config
from ummgat.model.networks import Networks, build_networks
from ummgat.train.loop import to_tensors
from ummgat.train.losses import Expected
from ummgat.train.slices import Batch, trimmed
from ummgat.train.step import Step, build_optimizers


def synthetic_batch(config: Config, n_domains: int) -> Batch:
    """Noise inside an ellipse of brain, with a round lesion: the arithmetic of real slices without their data."""
    rng = np.random.default_rng(0)
    n, (height, width) = config.train.batch, config.data.crop
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    brain = (rows / 0.9) ** 2 + (columns / 0.75) ** 2 < 1
    lesion = np.broadcast_to((rows - 0.2) ** 2 + (columns - 0.2) ** 2 < 0.04, (n, 1, height, width)).astype(np.float32)

    def image() -> NDArray[np.float32]:
        return np.where(brain, rng.uniform(-0.9, 0.9, (n, 1, height, width)), -1).astype(np.float32)

    y = np.arange(n) % n_domains
    z = rng.standard_normal((2, n, config.model.latent_dim), dtype=np.float32)
    beside: dict[str, Any] = {
        "x_clean": image(),
        "x_tone": image(),
        "x_same": image(),
        "labels_src": lesion * 2,
        "labels_ref": lesion * 2,
        "noise": rng.standard_normal((n, 1, height, width), np.float32),
        "chances": rng.random((n, 4), np.float32),
    }
    if config.model.neighbours:
        beside["near_src"] = np.concatenate([image(), image()], axis=1) + 1
    if config.model.atlas:
        beside |= {name: np.concatenate([image() + 1] * 3, axis=1) for name in ("atlas_src", "atlas_ref")}
    return Batch(image(), y, lesion, image(), (y + 1) % n_domains, lesion, z)._replace(**beside)


def build_step(nets: Networks, config: Config, device: torch.device) -> Step:
    """A step on copies of `nets`, with lesions of one brightness in every domain."""
    own, n_domains = copy.deepcopy(nets), nets.encoder.n_domains
    lesions, one = torch.zeros(n_domains, 3, device=device), torch.ones(n_domains, device=device)
    expected = Expected(lesions, lesions, one, torch.ones(n_domains, n_domains, device=device), ring=1)
    return Step(own, build_optimizers(own, config.train), config, lambda p: None, expected)


def one_cycle(train: TrainConfig) -> range:
    """Iterations after which the default schedule repeats itself, long after the opening, when every term counts."""
    length = 2 * max(train.r1_every, train.cycle_every)
    start = math.ceil(0.9 * train.iterations / length) * length
    return range(start, start + length)


def main() -> None:
    """Measure and print."""
    arguments = parsed(common_parser(__doc__, 3, "cycles of the default schedule to time"))
    device = torch.device(arguments.device)
    config = load_config(arguments.preset)
    n_domains = 6
    nets = build_networks(config.model, n_domains, seed=0).to(device)
    whole = synthetic_batch(config, n_domains)
    batches = {
        "literal": to_tensors(whole, device),
        "default": to_tensors(trimmed(whole, nets.generator.unit), device),  # as the alternating schedule gets them
    }
    train = config.train
    literal_train = train.model_copy(
        update={"schedule": "literal", "r1_every": 1, "cycle_every": 1, "d_real": "source"}
    )
    default_train = train.model_copy(update={"schedule": "alternating"})
    steps = {
        name: build_step(nets, config.model_copy(update={"train": chosen}), device)
        for name, chosen in (("literal", literal_train), ("default", default_train))
    }
    cycle = one_cycle(train)
    flops = {}
    for name, iterations in (("literal", cycle[:1]), ("default", cycle)):
        with CountOperators() as counter:
            for i in iterations:
                steps[name].run(batches[name], i)
        flops[name] = counter.flops / len(iterations)
    seconds: dict[str, list[float]] = {"literal": [], "default": []}
    for _ in range(arguments.rounds):
        # In turn, so that a drift of the machine's speed meets both alike.
        for name, iterations in (("literal", cycle[: max(1, len(cycle) // 4)]), ("default", cycle)):
            began = time.perf_counter()
            for i in iterations:
                steps[name].run(batches[name], i)
            synchronize(device)
            seconds[name].append((time.perf_counter() - began) / len(iterations))
    rate = matmul_rate(device)
    print(
        f"preset {arguments.preset}, {device}, {torch.get_num_threads()} threads, matrix products {rate / 1e9:.1f} "
        f"GFLOP/s"
    )
    print(f"{'schedule':10} {'s/iteration':>12} {'GFLOP':>8} {'share of matrix-product rate':>30}")
    result: dict[str, object] = {
        "preset": arguments.preset,
        "threads": torch.get_num_threads(),
        "matmul_gflops": rate / 1e9,
    }
    for name in ("literal", "default"):
        median = statistics.median(seconds[name])
        share = flops[name] / median / rate
        print(f"{name:10} {median:12.3f} {flops[name] / 1e9:8.1f} {share:30.2f}")
        result[name] = {"seconds": seconds[name], "gflop": flops[name] / 1e9, "share": share}
    ratios = [a / b for a, b in zip(seconds["literal"], seconds["default"], strict=True)]
    ratio = statistics.median(ratios)
    result["ratio"] = ratios
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    print(
        f"headline: {ratio:.2f} x (default schedule faster than the literal one per iteration, preset "
        f"{arguments.preset})"
    )


if __name__ == "__main__":
    main()
