"""One study segmented in memory: images in, a label map out, with nothing read from or written to disk but the
networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from ummgat.completion.memory import Image, Model, image_of, voxels_of
from ummgat.completion.native import native_brain, to_native
from ummgat.core.machine import choose_device
from ummgat.core.study import Study, header_text
from ummgat.core.volume import Array, Grid
from ummgat.front.channels import Kind, Policy, channels, check_policy
from ummgat.front.findings import findings_of
from ummgat.front.grids import HEADER
from ummgat.front.networks import Foreign, check_model, open_model, open_segmenter, own_spacing
from ummgat.front.record import volumes_ml
from ummgat.model.weights import TrainedModel
from ummgat.prepare.images import prepare_images
from ummgat.prepare.labels import resample_labels
from ummgat.segment.contract import Segmenter, checked
from ummgat.segment.folds import CrossFitted

_NAME = "in memory"


@dataclass(frozen=True)
class SegmentedStudy:
    """Labels of one study, and what is to be known of them. Not for diagnosis.

    Parameters
    ----------
    labels : Nifti1Image
        uint8 (x, y, z) on the grid of the images given: 1 NCR, 2 ED, 3 ET; of a segmenter that tells the whole tumour
        only, all 2.
    volumes_ml : mapping of region → millilitres
        WT, TC, ET, NCR, ED, counted on the prepared grid; only WT if the segmenter tells no more.
    channels : mapping of sequence → kind
        How the segmenter got each sequence: acquired, generated, copied or empty.
    generated : mapping of sequence → Nifti1Image
        Images that stood in for missing ones, on the same grid. Their headers say SYNTHETIC.
    findings : tuple of str
        What to know before the labels are believed.
    """

    labels: nib.Nifti1Image
    volumes_ml: Mapping[str, float]
    channels: Mapping[str, Kind]
    generated: Mapping[str, nib.Nifti1Image]
    findings: tuple[str, ...]


@dataclass(frozen=True)
class _Held(Study):
    """A prepared study whose voxels are in memory."""

    volumes: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def volume(self, sequence: str) -> NDArray[np.uint8]:
        """Voxels of one sequence, (plane, row, column)."""
        return self.volumes[sequence]


def segment_images(
    images: Mapping[str, Image],
    segmenter: str | Path | Segmenter | None = None,
    *,
    policy: Policy = "generate",
    model: str | Path | TrainedModel | Model | None = None,
    center: str | None = None,
    spacing_mm: float | None = None,
    foreign: Foreign | None = None,
    device: str = "auto",
) -> SegmentedStudy:
    """Segment one study in memory, also where sequences are missing.

    Parameters
    ----------
    images : mapping of sequence → nibabel image, or (voxels, affine)
        What was acquired: co-registered, on one grid, skull-stripped with background exactly 0. Never changed.
    segmenter : path, name or Segmenter, optional
        See `ummgat.front.networks.open_segmenter`. Default: the bundled one that suits the policy. Give one in hand to
        open it once.
    policy : "generate", "empty" or "copy"
        What stands in for a sequence that the segmenter takes and `images` lacks.
    model : path, Model or TrainedModel, optional
        Generates. Default: the bundled one.
    center : str, optional
        Which of the model's centers the images resemble; never guessed. Needed to generate if the model has several.
    spacing_mm : float, optional
        Voxel size for a segmenter that does not know its own. Default: the model's, or 1.
    foreign : Foreign, optional
        What a segmenter that others made needs, `trust` before all.
    device : str
        `auto`, `cpu`, `cuda` or `mps`.

    Returns
    -------
    SegmentedStudy

    Raises
    ------
    FileNotFoundError, ValueError
        Images that are none or do not belong together, networks that cannot be opened or do not fit, nothing to segment
        from.
    """
    check_policy(policy)
    trained = None
    if policy == "generate":
        trained, _ = open_model(model.trained if isinstance(model, Model) else model, device)
        center = center or trained.only_center
    at_mm = own_spacing(segmenter, policy) or spacing_mm
    at_mm = at_mm or (trained.config.data.spacing_mm if trained is not None else 1.0)
    if trained is not None:
        check_model(trained, at_mm, center, prepared=False)
    own, told = open_segmenter(segmenter, policy, at_mm, foreign or Foreign(), torch.device(choose_device(device)))
    try:
        if isinstance(own, CrossFitted):
            raise ValueError(  # noqa: TRY004  (of a right type, but of no use here)
                f"Segmenter has folds: {told.file}. Found {len(own.members)}; expected one network, as images in "
                f"memory have no subject that a fold held back. Give the file of one fold."
            )
        given = {name: voxels_of(name, image) for name, image in images.items()}
        record, volumes, _ = prepare_images(given, subject=_NAME, center=center or "unknown", spacing_mm=at_mm)
        return _segmented(_Held(Path(_NAME), record, volumes), own, policy, trained, given, told.file)
    finally:
        close = getattr(own, "close", None)
        if close is not None and own is not segmenter:
            close()


def _segmented(
    study: Study,
    segmenter: Segmenter,
    policy: Policy,
    model: TrainedModel | None,
    given: Mapping[str, tuple[Array, Grid]],
    name: str,
) -> SegmentedStudy:
    """Channels, labels and findings, brought back to the grid of the images."""
    used = channels(study, segmenter.sequences, policy, model, study.center, with_reliability=False)
    labels = checked(segmenter({channel.sequence: channel.volume for channel in used}), study, name)
    data, original = next(iter(given.values()))
    brain = native_brain(data, original, _NAME)
    back = resample_labels(np.ascontiguousarray(labels.T), study.grid, original)
    return SegmentedStudy(
        image_of(back, original, HEADER),
        volumes_ml(labels, study.grid, segmenter.regions),
        {channel.sequence: channel.kind for channel in used},
        {
            c.sequence: image_of(to_native(c.volume, study.grid, original, brain), original, header_text(c.sequence))
            for c in used
            if c.kind == "generated"
        },
        tuple(findings_of(study, used, segmenter, labels)),
    )
