"""Literal fp32 schedule against the default one: same networks, same batches, one process, steps taken in turn.

Usage: python benchmarks/train_step.py [--preset small] [--rounds 3] [--threads 0] [--json FILE]

Prints seconds and FLOPs per iteration of each, the share of this machine's measured matrix-product rate, and the ratio.
FLOPs are PyTorch's count of matrix products, convolutions and attention, backward included.
"""

import argparse
import copy
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ummgat.config import Config, load_config
from ummgat.losses import Expected
from ummgat.model.networks import build_networks
from ummgat.relation import KNOTS, RIMS, rim_window
from ummgat.slices import Batch, trimmed
from ummgat.train import to_tensors
from ummgat.train_step import Step, build_optimizers


class CountFlops(TorchDispatchMode):
    """Sum PyTorch's own FLOP formulas over every operator that has one.

    `FlopCounterMode` does the same per module, and its bookkeeping fails on the double backward of R1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count it."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        name = func._overloadpacket.__name__
        if name == "_scaled_dot_product_flash_attention_for_cpu":  # the CPU kernel is not in the registry
            self.total += sdpa_flop_count(*(t.shape for t in args[:3]))
        elif name == "_scaled_dot_product_flash_attention_for_cpu_backward":
            self.total += sdpa_backward_flop_count(*(t.shape for t in args[:4]))
        elif formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


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
    return Batch(image(), y, lesion, image(), (y + 1) % n_domains, lesion, z)


def matmul_rate(device: torch.device, seconds: float = 1.0) -> float:
    """Best fp32 matrix-product rate over sizes that fit the caches, FLOP/s."""
    best = 0.0
    for side in (512, 1024, 2048):
        a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
        a @ b
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 3:
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            n += 1
        best = max(best, 2 * side**3 * n / (time.perf_counter() - began))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rounds", type=int, default=3, help="cycles of the default schedule to time")
    parser.add_argument("--threads", type=int, default=0, help="0 = as PyTorch chooses")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    config = load_config(arguments.preset)
    n_domains = 6
    nets = build_networks(config.model, n_domains, seed=0).to(device)
    whole = synthetic_batch(config, n_domains)
    batches = {
        "literal": to_tensors(whole, device),
        "default": to_tensors(trimmed(whole, nets.generator.unit), device),  # as the alternating schedule gets them
    }
    knots = torch.linspace(-1, 1, KNOTS, device=device).repeat(n_domains, n_domains, RIMS, 1)
    window = rim_window(config.data.spacing_mm)
    expected = Expected(knots, torch.zeros(n_domains, 3, device=device), window)
    train = config.train
    literal_train = train.model_copy(
        update={"schedule": "literal", "r1_every": 1, "cycle_every": 1, "d_real": "source"}
    )
    default_train = train.model_copy(update={"schedule": "alternating"})
    steps = {}
    for name, chosen in (("literal", literal_train), ("default", default_train)):
        own = copy.deepcopy(nets)
        steps[name] = Step(
            own, build_optimizers(own, chosen), config.model_copy(update={"train": chosen}), lambda p: None, expected
        )
    cycle = 2 * max(train.r1_every, train.cycle_every)  # iterations after which the default schedule repeats itself
    start = math.ceil(0.9 * train.iterations / cycle) * cycle  # long after the opening, when every term counts
    flops = {}
    for name, length in (("literal", 1), ("default", cycle)):
        with CountFlops() as counter:
            for i in range(length):
                steps[name].run(batches[name], start + i)
        flops[name] = counter.total / length
    seconds: dict[str, list[float]] = {"literal": [], "default": []}
    for _ in range(arguments.rounds):
        # In turn, so that a drift of the machine's speed meets both alike.
        for name, length in (("literal", max(1, cycle // 4)), ("default", cycle)):
            began = time.perf_counter()
            for i in range(length):
                steps[name].run(batches[name], start + i)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - began) / length)
    rate = matmul_rate(device)
    print(
        f"preset {arguments.preset}, {device}, {torch.get_num_threads()} threads, matrix products {rate / 1e9:.1f} GFLOP/s"
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
        f"headline: {ratio:.2f} x (default schedule faster than the literal one per iteration, preset {arguments.preset})"
    )


if __name__ == "__main__":
    main()
