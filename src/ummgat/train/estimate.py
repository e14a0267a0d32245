"""What a run will cost, measured before its first step by two trial steps on copies."""

import copy
import sys
import time
from typing import NamedTuple

import torch

from ummgat.core.config import Config
from ummgat.model.networks import Networks
from ummgat.train.losses import Tensors
from ummgat.train.step import Step, build_optimizers


class Estimate(NamedTuple):
    """Cost of a run on this machine."""

    parameters: int
    """Of G, E, M and D together."""
    seconds_per_step: float
    seconds: float
    """For the steps still to do, validation not included."""
    memory_bytes: int | None
    """Largest amount held so far: on a GPU by tensors, else by this process; None where the system does not tell."""
    device: str
    threads: int


def estimate(config: Config, nets: Networks, batch: Tensors, steps: int) -> Estimate:
    """Time one pair of passes after a warm-up on copies of the networks; the run itself is not touched."""
    trial = Networks(*(copy.deepcopy(module) for _, module in nets.named()))  # type: ignore[arg-type]
    step = Step(trial, build_optimizers(trial, config.train), config, lambda parameters: None)
    interval = 2 * max(config.train.r1_every, config.train.cycle_every)  # iterations after which the schedule repeats
    timed = {0: 0.0, 2: 0.0}  # a pair with every interval term, and one with none of them if they are not due each time
    for begin in timed:
        step.run(batch, begin)
        began = time.monotonic()
        step.run(batch, begin)
        step.run(batch, begin + 1)
        timed[begin] = (time.monotonic() - began) / 2
    full = 2 / interval if interval > 2 else 1.0
    seconds = full * timed[0] + (1 - full) * timed[2]
    parameters = sum(p.numel() for _, module in nets.named() for p in module.parameters())
    device = batch.x_src.device
    return Estimate(parameters, seconds, seconds * steps, peak_memory(device), str(device), torch.get_num_threads())


def peak_memory(device: torch.device) -> int | None:
    """Bytes, see `Estimate.memory_bytes`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
