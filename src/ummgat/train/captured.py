"""Training steps as CUDA graphs: thousands of small operations sent to the device in one call.

A step of these networks is some ten thousand operations of microseconds each, and a processor that sends them one by
one is slower than an accelerator that does them. Each combination of terms that is due (`train_step.Step.due`) is
captured once; what changes from step to step, learning rates and weights of terms, lies in tensors on the device.
"""

from typing import Any

import torch
from torch import Tensor

from ummgat.train.losses import Parts, Tensors
from ummgat.train.step import Step, set_learning_rates

_LIVE = {
    "g_adv": "adversarial",
    "cycle": "cycle",
    "atlas": "relation",
    "structure": "structure",
    "detail": "detail",
    "back": "back",
    "contrast": "contrast",
}
"""Part of the loss → field of `losses.Terms` that weighs it."""


class CapturedStep:
    """A `Step` of the alternating or mixed schedule on a CUDA device.

    Parameters
    ----------
    step : Step
        With capturable optimizers. Its batches must all have one shape.
    autocast : torch.dtype or None
        Of matrix products and convolutions; None leaves them at 32 bits.

    Raises
    ------
    ValueError
        For a config whose steps decide by what is in the batch.
    """

    def __init__(self, step: Step, autocast: torch.dtype | None) -> None:
        config = step.config
        if config.train.schedule not in ("alternating", "mixed") or config.loss.lesion > 0:
            raise ValueError(
                f"Steps cannot be captured. Found schedule {config.train.schedule}, loss.lesion {config.loss.lesion}; "
                f"expected alternating or mixed, and 0. Train without graphs."
            )
        self.step, self.autocast = step, autocast
        self.device = next(step.nets.generator.parameters()).device
        self.weights = torch.zeros(len(_LIVE), device=self.device)
        step.live = dict(zip(_LIVE, self.weights.unbind(), strict=True))
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Parts]] = {}
        self.seen: set[Any] = set()
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()
        self.batch: Tensors | None = None

    def run(self, batch: Tensors, step: int) -> Parts:
        """Do iteration `step`. The parts are overwritten by later ones: read them, or copy."""
        r1, terms = self.step.due(step)
        live = [getattr(terms, name) for name in _LIVE.values()]
        self.weights.copy_(torch.tensor(live).pin_memory(), non_blocking=True)
        set_learning_rates(self.step.optimizers, self.step.config.train, step)
        key = (step % 2, r1 > 0, *(weight > 0 for weight in live))
        self._take(batch)
        if key in self.graphs:
            graph, parts = self.graphs[key]
            graph.replay()
            return parts
        if key not in self.seen:
            # Once as usual: libraries choose their algorithms, optimizers make their state.
            self.seen.add(key)
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                parts = self._once(step)
            torch.cuda.current_stream().wait_stream(self.stream)
            return parts
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            parts = self._once(step)
        self.graphs[key] = graph, parts
        graph.replay()
        return parts

    def _once(self, step: int) -> Parts:
        assert self.batch is not None
        if self.autocast is None:
            return self.step.alternating(self.batch, step)
        # Without a cache of cast weights: it would outlive the graph that made it.
        with torch.autocast("cuda", self.autocast, cache_enabled=False):
            return self.step.alternating(self.batch, step)

    def _take(self, batch: Tensors) -> None:
        """Copy a batch to where the graphs read it."""
        if self.batch is None:
            kept = {n: v.clone() for n, v in batch._asdict().items() if isinstance(v, Tensor)}
            self.batch = batch._replace(**kept)  # type: ignore[arg-type]  # mypy takes them for any field
            return
        for mine, new in zip(self.batch, batch, strict=True):
            if isinstance(mine, Tensor) and isinstance(new, Tensor):
                mine.copy_(new)
