"""The exported model: one safetensors file with G, E, M and everything that using them needs.

Metadata: domains in branch order, config, intensity histograms, stored criteria, version. Nothing is guessed from
folder listings, and nothing is unpickled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.config import Config
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.machine import BUNDLED_MODEL, choose_device, given_or_bundled
from ummgat.core.tensors import file_hash, load_finite, save_tensors, with_prefix, without_prefix
from ummgat.core.version import __version__
from ummgat.model.atlas import Atlas
from ummgat.model.networks import Networks, build_networks
from ummgat.model.trust import Trust

FORMAT = "ummgat-model-4"
OLDER = "ummgat-model-3"
"""Before atlases and lesion codes; its images were scaled by percentiles of the brain."""

_KNOWN = ("spreads", "flickers", "lesions", "lesion_spreads")

StoredMode = Literal["mapper", "mean"]


@dataclass
class TrainedModel:
    """Networks ready for use, with what is known of their training."""

    nets: Networks
    """Moving averages of G, E, M; D only to be stored for going on with training, see `ummgat.train.pack`."""
    table: DomainTable
    config: Config
    codes: dict[str, Tensor]
    """"mapper" and "mean" → (n_domains, code_dim): one code per domain."""
    histograms: NDArray[np.float64]
    """(n_domains, 256): intensity distribution of each domain's training brains, summing to 1; bin 0 is 0."""
    spreads: NDArray[np.float64]
    """(n_domains, n_domains, KNOTS): how far a source's intensity leaves the target open, see `relation.Relations`."""
    flickers: NDArray[np.float64]
    """(n_domains,): how much neighbouring planes of a domain differ, see `relation.Relations`."""
    lesions: NDArray[np.float64]
    """(n_domains, n_labels): mean grey level inside each label of training lesions, NaN where unknown; no labels in old
    files."""
    lesion_spreads: NDArray[np.float64]
    """(n_domains, n_labels): its standard deviation within a lesion."""
    atlas: Atlas | None
    """The population's; None for a model without."""
    criteria: dict[str, Any]
    """Last validation, see `validate`: scores per direction, what they rest on, chosen sources and code mode."""
    training: dict[str, Any]
    """Draw mode, numbers of subjects, steps."""
    version: str
    hash: str
    """Of the file it was read from; empty if it was not."""
    by_percentiles: bool = False
    """It was trained on images scaled by percentiles of the brain, as files before "ummgat-model-4" are."""
    leanings: NDArray[np.float32] | None = None
    """(n_domains, n_domains): share by which each direction (source, target) leans on the atlas in healthy brain, 0 to
    1, see `ummgat.train.calibrate`; None for a model that was not calibrated."""
    trust: Trust | None = None
    """How far to trust each voxel; None for a model that was not calibrated."""

    @property
    def only_center(self) -> str | None:
        """The center of a model that has a single one, as all studies are then taken for; None if there is a choice to
        make.
        """
        return self.table.centers[0] if len(self.table.centers) == 1 else None

    def code(self, domain: Domain, mode: StoredMode) -> Tensor:
        """The stored code of `domain`: (code_dim,)."""
        return self.codes[mode][self.table.index(domain)]

    def pair_of_codes(self, source: Domain, target: Domain, mode: StoredMode) -> tuple[Tensor, Tensor]:
        """What a translation takes: the stored codes of target and source, each (code_dim,)."""
        return self.code(target, mode), self.code(source, mode)


def save_model(path: Path, model: TrainedModel, half: bool = False) -> None:
    """Export. Weights are stored as float32, or with `half` as float16; they are computed with as float32."""
    tensors: dict[str, Tensor] = {}
    for name, module in model.nets.named():
        weights = module.state_dict()
        tensors |= with_prefix(name, {k: v.half() for k, v in weights.items()} if half else weights)
    tensors |= with_prefix("codes", model.codes)
    tensors["histograms"] = torch.from_numpy(model.histograms.astype(np.float32))
    for name in _KNOWN:  # none is negative, and a file holds finite numbers only
        tensors[name] = torch.from_numpy(np.nan_to_num(getattr(model, name), nan=-1.0).astype(np.float32))
    if model.atlas is not None:
        tensors |= with_prefix("atlas", {name: torch.from_numpy(v) for name, v in model.atlas._asdict().items()})
    tensors |= calibration_tensors(model.leanings, model.trust)
    metadata = {
        "format": OLDER if model.by_percentiles else FORMAT,
        "version": __version__,
        "domains": model.table.names,
        "config": model.config.model_dump(mode="json"),
        "criteria": model.criteria,
        "training": model.training,
        "intensities": "brain 1-255, background 0, arbitrary units (ordinary tissue has mean 100 and SD 22)",
    }
    save_tensors(path, tensors, metadata)


def calibration_tensors(leanings: NDArray[np.float32] | None, trust: Trust | None) -> dict[str, Tensor]:
    """What a weights file holds of a calibration, by name; nothing of what is None."""
    tensors: dict[str, Tensor] = {}
    if leanings is not None:
        tensors["leanings"] = torch.from_numpy(leanings.astype(np.float32))
    if trust is not None:
        tensors |= with_prefix("trust", {name: torch.from_numpy(v) for name, v in trust._asdict().items()})
    return tensors


def load_model(path: Path, device: torch.device | None = None) -> TrainedModel:
    """Read an exported model.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, damaged, or another kind of file.
    """
    tensors, metadata = load_finite(path, FORMAT, OLDER)
    try:
        config = Config.model_validate(metadata["config"])
        table = DomainTable.from_names(metadata["domains"])
        nets = build_networks(config.model, len(table), seed=0)
        nets.discriminator = None
        for name, module in nets.named():
            module.load_state_dict(without_prefix(name, tensors))
            module.requires_grad_(False).eval()
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"Weights do not fit their config: {path}. Found {error}; expected what version {__version__} writes, the "
            f"file is of version {metadata.get('version')}. Export the model again, or use the version that wrote it."
        ) from error
    device = device or torch.device("cpu")
    missing = torch.zeros((len(table), 0))
    known = {name: tensors.get(name, missing).double().numpy() for name in _KNOWN}
    known = {name: np.where(values < 0, np.nan, values) for name, values in known.items()}
    atlas, trust = without_prefix("atlas", tensors), without_prefix("trust", tensors)
    return TrainedModel(
        nets=nets.to(device),
        table=table,
        config=config,
        codes={name: tensor.to(device) for name, tensor in without_prefix("codes", tensors).items()},
        histograms=tensors["histograms"].double().numpy(),
        **known,
        atlas=Atlas(*(atlas[name].numpy() for name in Atlas._fields)) if atlas else None,
        leanings=tensors["leanings"].float().numpy() if "leanings" in tensors else None,
        trust=Trust(*(trust[name].float().numpy() for name in Trust._fields)) if trust else None,
        criteria=metadata["criteria"],
        training=metadata["training"],
        version=metadata["version"],
        hash=file_hash(path),
        by_percentiles=metadata["format"] == OLDER,
    )


def opened_model(model: "str | Path | TrainedModel | None", device: str = "auto") -> TrainedModel:
    """A model that is at hand already, or one read onto `device`; None is the bundled one.

    Raises
    ------
    FileNotFoundError, ValueError
        See `load_model`, `choose_device`; or this package came without weights.
    """
    if isinstance(model, TrainedModel):
        return model
    return load_model(given_or_bundled(model, BUNDLED_MODEL), torch.device(choose_device(device)))


def unpaired_score(row: dict[str, Any]) -> float:
    """One number per direction from unpaired criteria, lower is better.

    Kernel distance as a share of that of plain copying (0 perfect, 1 no better than a copy), plus cycle error in
    units of 32 grey levels, plus the share of slices that the encoder does not recognise as the target. The weights
    are ours; no paper fixes them.
    """
    return float(max(row["kernel"], 0) / max(row["kernel_copy"], 1e-6) + row["cycle"] / 32 + 1 - row["agreement"])
