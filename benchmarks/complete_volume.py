"""One (155, 176, 176) volume: the product's batched translation against slice by slice over the full image, same
weights.

Usage: python benchmarks/complete_volume.py [--preset small] [--rounds 2] [--threads 0] [--json FILE]

Slice by slice is what a plain loop does: every plane of the volume, whole, one at a time, fp32, each operation on all
of PyTorch's threads. Batched is `translate_volume`: planes with brain only, a few at once on each thread, cut to their
brain, background left out of attention and MLPs. Both give the same image, which is checked. The peak memory is that of
a fresh process that only translates.
"""

import json
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray

from options import common_parser, parsed
from ummgat.core.config import load_config
from ummgat.model.masked import from_unit, to_unit
from ummgat.model.networks import build_networks
from ummgat.model.translate import translate_volume
from ummgat.model.unet import UShape
from ummgat.train.estimate import peak_memory

SHAPE = (155, 176, 176)


def ellipsoid_brain(seed: int = 0) -> NDArray[np.uint8]:
    """A volume of the paper's crop with noise inside an ellipsoid of 1.45 litres, about an adult brain."""
    axes = np.meshgrid(*(np.linspace(-n / 2, n / 2, n) for n in SHAPE), indexing="ij")
    inside = sum((a / r) ** 2 for a, r in zip(axes, (65, 80, 66), strict=True)) < 1
    noise = np.random.default_rng(seed).integers(20, 256, SHAPE, dtype=np.uint8)
    return np.where(inside, noise, 0).astype(np.uint8)


@torch.inference_mode()
def slice_by_slice(
    generator: UShape, volume: NDArray[np.uint8], code: torch.Tensor, source: torch.Tensor
) -> NDArray[np.uint8]:
    """Every plane, whole, one at a time."""
    planes = [
        generator(torch.from_numpy(to_unit(plane))[None, None].to(code.device), code[None], source[None])[0, 0]
        .cpu()
        .numpy()
        for plane in volume
    ]
    return from_unit(np.stack(planes))


def main() -> None:
    """Measure and print."""
    parser = common_parser(__doc__, 2, "of each to time")
    parser.add_argument("--memory-only", action="store_true", help="translate once, batched, and print the peak memory")
    arguments = parsed(parser)
    device = torch.device(arguments.device)
    config = load_config(arguments.preset)
    generator = build_networks(config.model, 6, seed=0).to(device).generator.eval()
    codes = torch.randn((2, config.model.code_dim), generator=torch.Generator().manual_seed(0)).to(device)
    volume = ellipsoid_brain()
    if arguments.memory_only:
        translate_volume(generator, volume, *codes)
        print(peak_memory(device))
        return
    seconds: dict[str, list[float]] = {"slice by slice": [], "batched": []}
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        plain = slice_by_slice(generator, volume, *codes)
        seconds["slice by slice"].append(time.perf_counter() - began)
        began = time.perf_counter()
        batched = translate_volume(generator, volume, *codes)
        seconds["batched"].append(time.perf_counter() - began)
    difference = int(np.abs(plain.astype(int) - batched.astype(int)).max())
    if difference > 1:
        raise SystemExit(f"The two ways disagree by {difference} grey levels: the comparison means nothing.")
    command = [
        sys.executable,
        __file__,
        "--preset",
        arguments.preset,
        "--memory-only",
        "--threads",
        str(torch.get_num_threads()),
    ]
    memory = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, values in seconds.items():
        print(f"{name:16} {statistics.median(values):8.2f} s per volume")
    print(
        f"largest difference {difference} grey levels; peak memory {memory / 1e9:.2f} GB, {torch.get_num_threads()} "
        f"threads"
    )
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"seconds": seconds, "ratio": ratio, "peak_memory_bytes": memory}, indent=1)
        )
    print(f"headline: {ratio:.2f} x (batched completion faster than slice by slice, preset {arguments.preset})")


if __name__ == "__main__":
    main()
