"""Sequence codes and what the shared trunk of the encoder says of slices: real, generated, and lesions only.

Every domain has a head of its own, so codes of different domains lie apart even before training. What was learnt shows
in the features that all heads share, and only beside an encoder that learnt nothing. That control is collected, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.domain import Domain
from ummgat.core.each import Progress, each
from ummgat.core.study import Study
from ummgat.model.encoder import SequenceEncoder
from ummgat.model.masked import from_unit, to_unit
from ummgat.model.networks import build_networks
from ummgat.model.translate import translate_slices
from ummgat.model.weights import TrainedModel
from ummgat.train.slices import TrainingVolume, selection_volumes
from ummgat.train.validate import chosen_slices

KINDS = ("real", "generated", "lesion", "generated lesion", "flat lesion")
"""Flat: a constant inside the mask instead of an image, so that nothing but the mask's shape is left."""

ENCODERS = ("trained", "untrained")

BATCH = 32


class Encoded(NamedTuple):
    """What was encoded."""

    encoder: str
    """`trained`, or `untrained`: the control with fresh weights."""
    kind: str
    """One of `KINDS`."""
    subject: str
    source: str
    """Domain, `center/sequence`, of the real image that it is or was made from."""
    target: str
    """Domain that it is or was made to be; its head gave the code, lesion kinds under index + N."""
    plane: int
    """Counted within the subject: the same number is the same place in all of its images of a kind."""


@dataclass(frozen=True)
class Codes:
    """Rows and their vectors."""

    rows: list[Encoded]
    features: NDArray[np.float64]
    """(row, width): pooled features of the shared trunk, before any head."""
    codes: NDArray[np.float64]
    """(row, code_dim): of the head, zero mean and unit variance each."""

    def chosen(self, **wanted: str) -> NDArray[np.intp]:
        """Indices of the rows whose fields have these values."""
        return np.flatnonzero([all(getattr(row, k) == v for k, v in wanted.items()) for row in self.rows])

    def column(self, name: str, at: NDArray[np.intp]) -> NDArray[np.str_]:
        """Values of a field of the rows `at`."""
        return np.array([getattr(self.rows[i], name) for i in at])


class _Images(NamedTuple):
    """Images of one kind, source and target."""

    kind: str
    subject: str
    source: int
    target: int
    x: Tensor
    """(n, 1, row, column) in [-1, 1]."""
    region: Tensor | None
    """Of the same shape; None for the brain."""


@torch.inference_mode()
def collect(
    model: TrainedModel,
    studies: Sequence[Study],
    planes: int = 4,
    seed: int = 0,
    mode: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[Codes, dict[str, str]]:
    """Encode slices of every acquired sequence, translated to every other domain, with a trained and an untrained
    encoder.

    Parameters
    ----------
    model : TrainedModel
    studies : sequence of Study
        On the model's grid. Sequences that are no domain of the model are left out.
    planes : int
        Per volume, evenly spaced over those with enough brain (whole images), and over those of them with lesion
        (lesions). All sequences of a subject share them.
    seed : int
        Of the untrained encoder's weights.
    mode : str, optional
        Code mode of the translations. Default: the one validation chose.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    (Codes, dict)
        Codes, and subjects that failed, with why. Both encoders see the very same images. Generated slices are rounded
        as a file would hold them; planes are translated singly, without the blending of neighbours that whole volumes
        get.

    Raises
    ------
    ValueError
        If no study has a sequence that the model knows, or one was prepared at another voxel size.

    Notes
    -----
    Source: paper, Fig. 2. Lesions are encoded as the lesion-aware loss does: pooled inside the mask, under head y + N.
    """
    wanted = model.config.data.spacing_mm
    for study in studies:
        if not np.allclose(study.grid.spacing_mm, wanted, atol=1e-3):
            raise ValueError(
                f"Study and model disagree on voxel size: {study.folder}. Found {study.grid.spacing_mm} mm; expected "
                f"{wanted} mm. Run `ummgat prepare --spacing {wanted}`."
            )
    known = {study.subject: study for study in studies if any(_domains(model, study))}
    if not known:
        raise ValueError(
            f"No image to encode: {len(studies)} studies. Found no sequence that the model knows; expected some of "
            f"{', '.join(model.table.names)}. Choose other studies, or another model."
        )
    device = next(model.nets.encoder.parameters()).device
    encoders = {
        "trained": model.nets.encoder,
        "untrained": build_networks(model.config.model, len(model.table), seed).encoder.to(device).eval(),
    }
    order = _Order(model, encoders, planes, model.codes[mode or model.criteria["mode"]])
    report = each(_encoded, known, order, jobs=jobs, progress=progress)
    rows = [row for own, _, _ in report.done.values() for row in own]
    if not rows:
        why = "; ".join(report.failed.values()) or "no plane with enough brain"
        raise ValueError(
            f"No image to encode: {len(studies)} studies. Found {why}; expected some. Choose other studies."
        )
    features, heads = (np.concatenate([part for own in report.done.values() for part in own[i]]) for i in (1, 2))
    return Codes(rows, features, heads), report.failed


@dataclass(frozen=True)
class _Order:
    model: TrainedModel
    encoders: Mapping[str, SequenceEncoder]
    planes: int
    codes: Tensor


def _domains(model: TrainedModel, study: Study) -> list[Domain]:
    return [d for d in (Domain(study.center, q) for q in study.acquired) if d in model.table]


@torch.inference_mode()
def _encoded(order: _Order, study: Study) -> tuple[list[Encoded], list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Rows, features and codes of one subject's volumes."""
    model = order.model
    rows: list[Encoded] = []
    features, heads = [], []
    for volume in selection_volumes([study], model.table, model.config.data):
        for images in _images_of(model, volume, order.planes, order.codes):
            source, target = (model.table.names[y] for y in (images.source, images.target))
            for name, encoder in order.encoders.items():
                pooled, code = _encode(encoder, images, order.codes.device)
                rows += [
                    Encoded(name, images.kind, images.subject, source, target, plane) for plane in range(len(pooled))
                ]
                features.append(pooled.cpu().numpy().astype(np.float64))
                heads.append(code.cpu().numpy().astype(np.float64))
    return rows, features, heads


def _images_of(model: TrainedModel, volume: TrainingVolume, planes: int, codes: Tensor) -> list[_Images]:
    """Everything that is encoded of one real volume."""
    y, subject = volume.domain, volume.study.subject
    x, _ = chosen_slices(volume, model.config, planes)
    found = [_Images("real", subject, y, y, x, None)]
    x_lesion = x[:0]
    region = None
    if volume.has_lesion.any():
        with_lesion = volume._replace(planes=volume.planes[volume.has_lesion])
        x_lesion, mask = chosen_slices(with_lesion, model.config, planes)
        region = (mask & (x_lesion > -1)).to(x_lesion.dtype)
        found.append(_Images("lesion", subject, y, y, x_lesion, region))
        found.append(_Images("flat lesion", subject, y, y, torch.zeros_like(x_lesion), region))
    for target in range(len(model.table)):
        if target == y:
            continue
        fake = _as_stored(
            translate_slices(model.nets.generator, torch.cat([x, x_lesion]).to(codes.device), codes[target], codes[y]),
        )
        found.append(_Images("generated", subject, y, target, fake[: len(x)], None))
        if region is not None:
            found.append(_Images("generated lesion", subject, y, target, fake[len(x) :], region))
    return found


def _as_stored(fake: Tensor) -> Tensor:
    """Generated slices as uint8 keeps them."""
    return torch.from_numpy(to_unit(from_unit(fake.float().cpu().numpy())))


def _encode(encoder: SequenceEncoder, images: _Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features and codes of images."""
    head = images.target + (encoder.n_domains if images.region is not None else 0)
    features, codes = [], []
    for start in range(0, len(images.x), BATCH):
        x = images.x[start : start + BATCH].to(device)
        region = None if images.region is None else images.region[start : start + BATCH].to(device)
        features.append(encoder.features(x, region))
        codes.append(encoder(x, torch.full((len(x),), head, device=device), region))
    return torch.cat(features), torch.cat(codes)
