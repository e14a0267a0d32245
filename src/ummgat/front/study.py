"""One prepared study: its channels, its labels, and everything that is written about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ummgat.core.files import explained_full_disk, replaced_folder, write_json
from ummgat.core.stamp import write_stamp
from ummgat.core.study import GridRecord, Study, header_text, require_spacing
from ummgat.core.version import __version__
from ummgat.core.volume import write_volume
from ummgat.front.channels import Channel, Policy, channels
from ummgat.front.findings import findings_of
from ummgat.front.grids import HEADER, write_labels_back
from ummgat.front.page import picture_of, write_study_page
from ummgat.front.record import PAGE, RECORD, ChannelRecord, NetworkRecord, SegmentationRecord, volumes_ml
from ummgat.model.weights import TrainedModel
from ummgat.segment.contract import Segmenter, checked
from ummgat.segment.folds import CrossFitted

LABELS_FILE, PREVIEW = "labels.nii", "preview.png"


@dataclass(frozen=True)
class Order:
    """What all studies of one call share."""

    out: Path
    segmenter: Segmenter | CrossFitted
    segmenter_is: NetworkRecord
    policy: Policy
    model: TrainedModel | None
    model_is: NetworkRecord | None
    center: str | None
    """As whose all studies are taken; None: each as its own."""
    spacing_mm: float
    """At which the networks work."""
    with_reliability: bool
    marks: Mapping[str, str]
    """Subject → fingerprint of what its result is made from."""


def segment_one(order: Order, study: Study) -> SegmentationRecord:
    """Segment one study and write its folder, which appears when it is whole.

    Raises
    ------
    ValueError, OSError
        Another voxel size, nothing to segment from, a gap that cannot be filled, a segmenter that answers otherwise
        than it must.
    """
    require_spacing(study, order.spacing_mm)
    own = order.segmenter
    segmenter = own.of(study.subject) if isinstance(own, CrossFitted) else own
    center = order.center or study.center
    given = channels(study, segmenter.sequences, order.policy, order.model, center, order.with_reliability)
    images = {channel.sequence: channel.volume for channel in given}
    labels = checked(segmenter(images), study, order.segmenter_is.file)
    folder = order.out / study.subject
    with explained_full_disk(folder), replaced_folder(folder) as temporary:
        write_volume(temporary / LABELS_FILE, np.ascontiguousarray(labels).T, study.grid, HEADER)
        told = {channel.sequence: _write_channel(study, channel, temporary) for channel in given}
        made_now = any(channel.provenance.get("checkpoint_hash") == _hash(order) for channel in given)
        record = SegmentationRecord(
            subject=study.subject,
            center=center,
            software=f"ummgat {__version__}",
            policy=order.policy,
            segmenter=order.segmenter_is,
            model=order.model_is if made_now else None,
            channels=told,
            regions=segmenter.regions,
            labels_file=LABELS_FILE,
            native_files=write_labels_back(study, labels, temporary),
            grid=GridRecord.of(study.grid),
            volumes_ml=volumes_ml(labels, study.grid, segmenter.regions),
            findings=findings_of(study, given, segmenter, labels),
        )
        (temporary / PREVIEW).write_bytes(picture_of(study, given, labels, segmenter.regions == "wt"))
        write_study_page(temporary / PAGE, record, study, given, labels)
        write_json(temporary / RECORD, record.model_dump(mode="json"))
        files = [LABELS_FILE, *record.native_files.values(), PREVIEW, PAGE, RECORD]
        files += [name for channel in told.values() if channel.file for name in (channel.file, _sidecar(channel.file))]
        write_stamp(temporary, order.marks[study.subject], files, record.findings)
    return record


def _hash(order: Order) -> str:
    return order.model_is.hash if order.model_is is not None else "none"


def _sidecar(file: str) -> str:
    return file.removesuffix(".nii") + ".json"


def _write_channel(study: Study, channel: Channel, folder: Path) -> ChannelRecord:
    """Keep a generated image as the segmenter saw it, marked as one; of others it is enough to say what they were."""
    told = ChannelRecord(kind=channel.kind, sources=list(channel.sources), note=channel.note)
    if channel.kind != "generated":
        return told
    told.file = f"{channel.sequence}_generated.nii"
    write_volume(folder / told.file, np.ascontiguousarray(channel.volume).T, study.grid, header_text(channel.sequence))
    write_json(folder / _sidecar(told.file), channel.provenance)
    if channel.reliability is not None and (channel.reliability > 0).any():
        told.reliability_median = round(float(np.median(channel.reliability[channel.reliability > 0])), 1)
    return told
