"""Everything that changes during training, saved and restored whole.

There is no generator of random numbers among it: every draw is a pure function of (seed, step), see `slices`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ummgat import __version__
from ummgat.config import Config
from ummgat.draw import Draw
from ummgat.model.networks import Networks, build_networks, moving_average_of
from ummgat.tensors import (
    all_finite,
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    with_prefix,
    without_prefix,
)
from ummgat.train_step import Optimizers, build_optimizers

FORMAT = "ummgat-checkpoint-1"

CHANGEABLE = frozenset({"iterations", "checkpoint_minutes", "validate_every", "log_every", "threads", "devices"})
"""Settings of `train` that may differ on resume. A longer run also moves the decay of the learning rates."""


@dataclass
class TrainState:
    """Networks, their moving average, optimizers, and how many steps are done."""

    nets: Networks
    average: Networks
    optimizers: Optimizers
    step: int
    best_score: float | None
    """Of the best validation so far; lower is better."""


def new_state(config: Config, n_domains: int, device: torch.device) -> TrainState:
    """State before the first step."""
    nets = build_networks(config.model, n_domains, config.train.seed).to(device)
    return TrainState(nets, moving_average_of(nets), build_optimizers(nets, config.train), 0, None)


def save_state(path: Path, state: TrainState, config: Config, draw: Draw) -> None:
    """Write a checkpoint.

    Raises
    ------
    FloatingPointError
        If a weight is not finite; the file already at `path` is then left as it is.
    """
    tensors: dict[str, Tensor] = {}
    for group, nets in (("nets", state.nets), ("average", state.average)):
        for name, module in nets.named():
            tensors |= with_prefix(f"{group}.{name}", module.state_dict())
    for name, optimizer in state.optimizers.named():
        tensors |= with_prefix(f"optimizers.{name}", optimizer_tensors(optimizer))
    if not all_finite(tensors):
        raise FloatingPointError(
            f"Weights are not finite after step {state.step}. Found NaN or infinity; expected numbers. "
            f"The last good checkpoint is kept: {path}. Lower the learning rates and resume from it."
        )
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "step": state.step,
        "best_score": state.best_score,
        "config": config.model_dump(mode="json"),
        "draw": draw.model_dump(mode="json"),
    }
    save_tensors(path, tensors, metadata)


def load_state(path: Path, config: Config, draw: Draw, device: torch.device) -> TrainState:
    """Restore a checkpoint of the same run.

    Raises
    ------
    ValueError
        If the checkpoint was written with other settings (those in `CHANGEABLE` apart) or another draw.
    """
    tensors, metadata = load_tensors(path, FORMAT)
    wanted, found = config.model_dump(mode="json"), metadata["config"]
    different = [
        f"{section}.{key} {found.get(section, {}).get(key)!r} → {value!r}"
        for section, values in wanted.items()
        for key, value in values.items()
        if found.get(section, {}).get(key) != value and not (section == "train" and key in CHANGEABLE)
    ]
    if metadata["draw"] != draw.model_dump(mode="json"):
        different.append("draw")
    if different:
        raise ValueError(
            f"Checkpoint belongs to another run: {path}. Found different {'; '.join(different)}; expected the same "
            "settings. Choose another output folder, or resume with the settings of that run."
        )
    state = new_state(config, len(draw.domains), device)
    for group, nets in (("nets", state.nets), ("average", state.average)):
        for name, module in nets.named():
            own = without_prefix(f"{group}.{name}", tensors)
            wanted_names = module.state_dict()
            if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in wanted_names.items()}:
                raise ValueError(
                    f"Checkpoint holds another architecture: {path}. Found other tensors for the {name} than version "
                    f"{__version__} has; expected those of version {metadata['version']}'s code. Resume with that version."
                )
            module.load_state_dict(own)
    for name, optimizer in state.optimizers.named():
        restore_optimizer(optimizer, without_prefix(f"optimizers.{name}", tensors))
    state.step = int(metadata["step"])
    state.best_score = metadata["best_score"]
    return state
