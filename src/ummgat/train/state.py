"""Everything that changes during training, saved and restored whole.

There is no generator of random numbers among it: every draw is a pure function of (seed, step), see `slices`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ummgat.core.config import Config
from ummgat.core.data_marks import require_same_data
from ummgat.core.domain import DomainTable
from ummgat.core.draw import Draw
from ummgat.core.tensors import (
    all_finite,
    file_hash,
    load_finite,
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    with_prefix,
    without_prefix,
)
from ummgat.core.version import __version__
from ummgat.model.networks import Networks, build_networks, moving_average_of
from ummgat.model.weights import FORMAT as MODEL_FORMAT
from ummgat.model.weights import OLDER
from ummgat.train.step import Optimizers, build_optimizers

FORMAT = "ummgat-checkpoint-1"

_MAY_DIFFER = frozenset(
    {"patch", "window", "guide_window", "encoder_pool"}
    | {f"discriminator_{part}" for part in ("widths", "position", "statistics")}
)
"""Settings of `model` in which a run may differ from the model it starts from: what the size of a pixel asks for, and
D."""

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
    started_from: str | None = None
    """Hash of the model whose weights were there before the first step; None: random ones."""
    data: dict[str, str] = field(default_factory=dict)
    """Training and selection subject → fingerprint of what the run sees of it, see `core.data_marks`."""
    data_changed: list[int] = field(default_factory=list)
    """Steps after which the run went on with other data, because somebody said so."""


def new_state(config: Config, n_domains: int, device: torch.device) -> TrainState:
    """State before the first step."""
    nets = build_networks(config.model, n_domains, config.train.seed).to(device)
    return TrainState(nets, moving_average_of(nets), build_optimizers(nets, config.train), 0, None)


def started_from(path: Path, config: Config, table: DomainTable, device: torch.device) -> TrainState:
    """State before the first step, with the weights of an exported model.

    Its averages become both the networks and their averages. D comes along if the file has it (`ummgat pack`) and the
    config wants the same D, else it starts from random weights. A model of larger voxels may go on at smaller ones:
    what it reads in patches of two pixels it then reads in patches of four, see `finer_patches`.

    Parameters
    ----------
    path : Path
        As `ummgat.model.weights.save_model` writes it.
    config : Config
    table : DomainTable
    device : torch.device

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, damaged, or a model of other domains or another architecture.
    """
    tensors, metadata = load_finite(path, MODEL_FORMAT, OLDER)
    different = [
        f"model.{key} {metadata['config']['model'].get(key)!r} → {value!r}"
        for key, value in config.model.model_dump(mode="json").items()
        if metadata["config"]["model"].get(key) != value and key not in _MAY_DIFFER
    ]
    old_patch = metadata["config"]["model"]["patch"]
    if config.model.patch % old_patch:
        different.append(f"model.patch {old_patch} → {config.model.patch}, which is no multiple")
    if metadata["domains"] != table.names:
        different.append(f"domains {', '.join(metadata['domains'])} → {', '.join(table.names)}")
    if different:
        raise ValueError(
            f"Model does not fit the run: {path}. Found different {'; '.join(different)}; expected the same networks "
            f"and the same domains in the same order. Draw with --domains as the model has them, or start without it."
        )
    state = new_state(config, len(table), device)
    same_d = all(
        metadata["config"]["model"].get(key) == value
        for key, value in config.model.model_dump(mode="json").items()
        if key.startswith("discriminator_")
    )
    for name, module in state.nets.named():
        own = without_prefix(name, tensors)
        if name == "discriminator" and not (own and same_d):
            continue
        if name == "generator":
            own = finer_patches(own, config.model.patch // old_patch)
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(
                f"Model holds another architecture: {path}. Found {error}; expected the {name} of version "
                f"{__version__}. Start with the version that wrote it, or without it."
            ) from error
    state.average = moving_average_of(state.nets)
    state.started_from = file_hash(path)
    return state


def finer_patches(weights: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Weights of a generator that reads `factor` times smaller pixels, as the mean over what was one pixel; the same
    tokens come of the same image, enlarged.
    """
    if factor == 1:
        return weights
    out = dict(weights)
    for name in ("embed.weight", "embed_target.weight"):
        if name in out:
            wide = out[name].repeat_interleave(factor, 2).repeat_interleave(factor, 3)
            out[name] = wide / factor**2
    return out


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
        "started_from": state.started_from,
        "data": state.data,
        "data_changed": state.data_changed,
        "config": config.model_dump(mode="json"),
        "draw": draw.model_dump(mode="json"),
    }
    save_tensors(path, tensors, metadata)


def load_state(
    path: Path,
    config: Config,
    draw: Draw,
    device: torch.device,
    data: Mapping[str, str] | None = None,
    changed_data: bool = False,
) -> TrainState:
    """Restore a checkpoint of the same run.

    Parameters
    ----------
    path : Path
    config : Config
    draw : Draw
    device : torch.device
    data : mapping of subject → fingerprint, optional
        What the run sees now. None: nothing is compared, and the state keeps what the checkpoint says.
    changed_data : bool
        Go on with other data than the run began with; the state says after which step.

    Raises
    ------
    ValueError
        If the checkpoint was written with other settings (those in `CHANGEABLE` apart), another draw, or other data.
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
                    f"{__version__} has; expected those of version {metadata['version']}'s code. Resume with that "
                    f"version."
                )
            module.load_state_dict(own)
    for name, optimizer in state.optimizers.named():
        restore_optimizer(optimizer, without_prefix(f"optimizers.{name}", tensors))
    state.step = int(metadata["step"])
    state.best_score = metadata["best_score"]
    state.started_from = metadata.get("started_from")
    state.data_changed = list(metadata.get("data_changed", []))
    state.data = dict(metadata.get("data") or {} if data is None else data)
    if data is not None and require_same_data(path, metadata.get("data"), data, changed_data):
        state.data_changed.append(state.step)
    return state
