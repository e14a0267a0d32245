"""The built-in segmenter: a U-Net from MONAI on brain-normalised images, in planes (with neighbours) or in 3-D.

It knows nothing of translation. What it is given for a missing sequence is the caller's affair: zeros are an empty one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.basic_unet import BasicUNet
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from ummgat.core.study import LABELS
from ummgat.core.tensors import file_hash, load_finite, save_tensors, with_prefix, without_prefix
from ummgat.core.version import __version__

FORMAT = "ummgat-segmenter-1"

FACTOR = 16
"""Four halvings: sides the network sees are multiples of it, and at least twice it, so that a norm has values."""

Volume = NDArray[np.uint8]


class SegmenterConfig(BaseModel):
    """Everything that makes a segmenter what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequences: tuple[str, ...] = ("t1", "t1ce", "t2", "flair")
    regions: Literal["multi", "wt"] = "multi"
    """`wt`: one whole-tumour label."""
    spacing_mm: float = Field(2.0, gt=0)
    dimensions: Literal[2, 3] = 2
    planes: int = Field(3, ge=1)
    """2-D: planes that are seen at once, the middle one of which is labelled."""
    crop: tuple[int, int, int] = (1, 80, 80)
    """Plane, row, column of a training patch; one plane in 2-D."""
    widths: tuple[int, int, int, int, int] = (16, 32, 64, 128, 128)
    drop: float = Field(0.0, ge=0, lt=1)
    """Sequence dropout: probability that a training image is replaced by zeros. At least one stays."""
    iterations: int = Field(1500, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> "SegmenterConfig":
        if self.planes % 2 == 0 or (self.dimensions == 3 and self.planes != 1):
            raise ValueError(f"planes {self.planes} must be odd, and 1 in 3-D")
        sides = self.crop if self.dimensions == 3 else self.crop[1:]
        if any(side % FACTOR or side < 2 * FACTOR for side in sides) or (self.dimensions == 2 and self.crop[0] != 1):
            raise ValueError(
                f"crop {self.crop} must be multiples of {FACTOR} from {2 * FACTOR} on, with one plane in 2-D"
            )
        if not self.sequences or len(set(self.sequences)) < len(self.sequences):
            raise ValueError(f"sequences {self.sequences} must be named, each once")
        return self

    @property
    def n_labels(self) -> int:
        """Classes, background included."""
        return 2 if self.regions == "wt" else 1 + len(LABELS)


def build_unet(config: SegmenterConfig) -> nn.Module:
    """MONAI's `BasicUNet` with instance normalisation, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        unet: nn.Module = BasicUNet(
            spatial_dims=config.dimensions,
            in_channels=len(config.sequences) * config.planes,
            out_channels=config.n_labels,
            features=(*config.widths, config.widths[0]),
            upsample="nontrainable",
        )
    return unet


def normalised(images: Sequence[Volume]) -> NDArray[np.float32]:
    """Zero mean and unit variance over each image's own brain, 0 elsewhere; an empty image stays 0.

    Parameters
    ----------
    images : sequence of ndarray (plane, row, column), uint8
        Brain 1–255, background 0.

    Returns
    -------
    ndarray (image, plane, row, column)
    """
    out = np.zeros((len(images), *images[0].shape), np.float32)
    for image, target in zip(images, out, strict=True):
        brain = image > 0
        if brain.any():
            values = image[brain].astype(np.float32)
            target[brain] = (values - values.mean()) / max(float(values.std()), 1.0)
    return out


def with_neighbours(images: NDArray[np.float32], planes: NDArray[np.intp], n: int) -> NDArray[np.float32]:
    """Each of `planes` with its neighbours as channels: (image, plane, row, column) → (n_planes, image · n, row,
    column).

    Beyond the first and the last plane there is nothing: zeros.
    """
    padded = np.pad(images, ((0, 0), (n // 2, n // 2), (0, 0), (0, 0)))
    stack = np.stack([padded[:, planes + offset] for offset in range(n)], axis=2)  # image, plane, offset, row, column
    return np.ascontiguousarray(stack.transpose(1, 0, 2, 3, 4).reshape(len(planes), -1, *images.shape[2:]))


@dataclass
class UnetSegmenter:
    """A trained U-Net. Call it with one image per sequence."""

    net: nn.Module
    config: SegmenterConfig
    training: dict[str, Any]
    """Who it was trained on (`subjects`), steps, scores on selection subjects."""
    version: str = ""
    hash: str = ""
    """Of the file it was read from; empty if it was not."""
    mirror: bool = False
    """Average with the answer to the mirrored images."""

    @property
    def sequences(self) -> tuple[str, ...]:
        """What it must be given."""
        return self.config.sequences

    @property
    def regions(self) -> Literal["multi", "wt"]:
        """What its labels mean: `multi` as `study.LABELS`, `wt` one whole tumour stored as ED."""
        return self.config.regions

    def __call__(self, images: Mapping[str, Volume]) -> Volume:
        """Segment.

        Parameters
        ----------
        images : mapping of sequence → ndarray (plane, row, column), uint8
            Prepared, at `config.spacing_mm`. All of `sequences`; zeros for an empty one.

        Returns
        -------
        ndarray (plane, row, column), uint8
            `study.LABELS`; 0 where no image has brain.

        Raises
        ------
        ValueError
            If a sequence is not given.
        """
        absent = [q for q in self.sequences if q not in images]
        if absent:
            raise ValueError(
                f"Image is missing: {', '.join(absent)}. Found {', '.join(images)}; expected "
                f"{', '.join(self.sequences)}. Give zeros where a sequence is to be empty."
            )
        chosen = [np.asarray(images[q]) for q in self.sequences]
        brain = np.any([image > 0 for image in chosen], axis=0)
        labels = np.zeros(brain.shape, np.uint8)
        if not brain.any():
            return labels
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(brain))
        x = normalised([image[box] for image in chosen])
        found = self._logits(x).argmax(0).astype(np.uint8)
        if self.regions == "wt":
            found *= np.uint8(LABELS["ED"])
        labels[box] = np.where(brain[box], found, 0)
        return labels

    @torch.inference_mode()
    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(image, plane, row, column) → (label, plane, row, column), mean of the softmax."""
        device = next(self.net.parameters()).device
        if self.config.dimensions == 3:
            whole = torch.from_numpy(x)[None].to(device)
            return self._mirrored(whole, self._volume)[0].float().cpu().numpy()
        planes = np.arange(x.shape[1])
        parts = []
        for start in range(0, len(planes), 16):
            part = torch.from_numpy(with_neighbours(x, planes[start : start + 16], self.config.planes)).to(device)
            parts.append(self._mirrored(part, self._planes).float().cpu().numpy())
        return np.concatenate(parts).transpose(1, 0, 2, 3)

    def _mirrored(self, x: Tensor, answer: Any) -> Tensor:
        out: Tensor = answer(x).softmax(1)
        if self.mirror:
            out = out + answer(x.flip(-1)).softmax(1).flip(-1)
        return out

    def _planes(self, x: Tensor) -> Tensor:
        """Pad to what the network can halve, and cut back."""
        height, width = x.shape[-2:]
        rows, columns = (max(2 * FACTOR, n + -n % FACTOR) for n in (height, width))
        padded = F.pad(x, (0, columns - width, 0, rows - height))
        out: Tensor = self.net(padded)[..., :height, :width]
        return out

    def _volume(self, x: Tensor) -> Tensor:
        out = sliding_window_inference(x, self.config.crop, 2, self.net, overlap=0.5, mode="gaussian")
        assert isinstance(out, Tensor)
        return out


def save_segmenter(path: Path, segmenter: UnetSegmenter) -> None:
    """Export, with weights as 16-bit floats (they are computed with as 32-bit)."""
    tensors = with_prefix("net", {k: v.half() for k, v in segmenter.net.state_dict().items()})
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "config": segmenter.config.model_dump(mode="json"),
        "training": segmenter.training,
    }
    save_tensors(path, tensors, metadata)


def load_segmenter(path: Path, device: torch.device | None = None) -> UnetSegmenter:
    """Read an exported segmenter.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, damaged, or another kind of file.
    """
    tensors, metadata = load_finite(path, FORMAT)
    try:
        config = SegmenterConfig.model_validate(metadata["config"])
        net = build_unet(config)
        net.load_state_dict({k: v.float() for k, v in without_prefix("net", tensors).items()})
    except (RuntimeError, KeyError, ValidationError) as error:
        raise ValueError(
            f"Weights do not fit their config: {path}. Found {error}; expected what version {__version__} writes, the "
            f"file is of version {metadata.get('version')}. Train the segmenter again, or use the version that wrote "
            f"it."
        ) from error
    net = net.requires_grad_(False).eval().to(device or torch.device("cpu"))
    return UnetSegmenter(net, config, metadata["training"], metadata["version"], file_hash(path))
