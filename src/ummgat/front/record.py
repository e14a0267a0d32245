"""`segmentation.json`, the sidecar of a segmented study, and the table of volumes made of all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ummgat.core.files import csv_text, read_json, write_text
from ummgat.core.study import LABELS, REGIONS, GridRecord
from ummgat.core.volume import Grid

RECORD, TABLE, PAGE = "segmentation.json", "volumes.csv", "index.html"

NOTICE = "Segmented by software. For research, not for diagnosis."

COLUMNS = (
    "subject",
    "status",
    "center",
    "wt_ml",
    "tc_ml",
    "et_ml",
    "ncr_ml",
    "ed_ml",
    "acquired",
    "generated",
    "copied",
    "empty",
    "policy",
    "segmenter",
    "model",
    "grid_mm",
    "findings",
)
"""Of `volumes.csv`."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChannelRecord(_Record):
    """One sequence as the segmenter got it."""

    kind: Literal["acquired", "generated", "copied", "empty"]
    sources: list[str] = Field(default_factory=list)
    """Sequences it was made from."""
    file: str | None = None
    """A generated image as the segmenter saw it, in this folder; its own sidecar is named like it."""
    note: str = ""
    reliability_median: float | None = None
    """Of a generated image: percent, over its brain. No guarantee, see docs/limits.md."""


class NetworkRecord(_Record):
    """What computed something."""

    file: str
    """Name, without folders."""
    hash: str
    version: str = ""


class SegmentationRecord(_Record):
    """`segmentation.json`."""

    format: Literal["ummgat-segmentation-1"] = "ummgat-segmentation-1"
    subject: str
    center: str
    """As whose the study was taken."""
    notice: str = NOTICE
    software: str
    policy: Literal["generate", "empty", "copy"]
    """What stood in for missing sequences."""
    segmenter: NetworkRecord
    model: NetworkRecord | None
    """The generative model; None if it made no image of this study."""
    channels: dict[str, ChannelRecord]
    """Sequence → how the segmenter got it, in its order."""
    regions: Literal["multi", "wt"]
    """`wt`: the segmenter tells only the whole tumour, stored as ED."""
    labels: dict[str, int] = Field(default_factory=lambda: dict(LABELS))
    labels_file: str
    """On the prepared grid."""
    native_files: dict[str, str]
    """What was scanned → the same labels on the grid of its file: a sequence, or `study` if all came on one grid."""
    grid: GridRecord
    """The prepared one, on which the volumes are counted."""
    volumes_ml: dict[str, float]
    """WT, TC, ET, NCR, ED, in millilitres; only WT if the segmenter tells no more."""
    findings: list[str]
    """What to know before the mask is believed."""

    def of_kind(self, kind: str) -> list[str]:
        """Sequences that the segmenter got in this way."""
        return [q for q, channel in self.channels.items() if channel.kind == kind]


def volumes_ml(labels: NDArray[np.uint8], grid: Grid, regions: str) -> dict[str, float]:
    """Count volumes.

    Parameters
    ----------
    labels : uint8 ndarray (plane, row, column), numbered as `LABELS`
    grid : Grid
        Their own.
    regions : "multi" or "wt"

    Returns
    -------
    dict of region or label → millilitres

    Examples
    --------
    >>> grid = Grid.of((1, 1, 4), np.diag([10.0, 10, 10, 1]))
    >>> volumes_ml(np.array([0, 1, 2, 3], np.uint8)[:, None, None], grid, "multi")
    {'WT': 3.0, 'TC': 2.0, 'ET': 1.0, 'NCR': 1.0, 'ED': 1.0}
    """
    wanted = dict(REGIONS) if regions == "multi" else {"WT": REGIONS["WT"]}
    if regions == "multi":
        wanted |= {name: (LABELS[name],) for name in ("NCR", "ED")}
    return {name: round(float(np.isin(labels, numbers).sum()) * grid.voxel_ml, 3) for name, numbers in wanted.items()}


def read_record(folder: Path) -> SegmentationRecord:
    """Read the sidecar of a segmented study.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    value = read_json(folder / RECORD)
    try:
        return SegmentationRecord.model_validate(value)
    except ValidationError as error:
        raise ValueError(
            f"Sidecar is not valid: {folder / RECORD}. Found {error.error_count()} problems ({error}); expected what "
            "`ummgat segment` writes. Segment the study again."
        ) from error


def row_of(record: SegmentationRecord) -> dict[str, Any]:
    """One line of the table; a volume that the segmenter does not tell stays empty, which is not 0."""
    volumes = {f"{name.lower()}_ml": f"{value:.3f}" for name, value in record.volumes_ml.items()}
    kinds = {kind: " ".join(record.of_kind(kind)) for kind in ("acquired", "generated", "copied", "empty")}
    return {
        "subject": record.subject,
        "status": "segmented",
        "center": record.center,
        **volumes,
        **kinds,
        "policy": record.policy,
        "segmenter": record.segmenter.hash,
        "model": record.model.hash if record.model else "",
        "grid_mm": f"{record.grid.grid().spacing_mm[0]:g}",
        "findings": " ".join(record.findings),
    }


def write_table(path: Path, records: Sequence[SegmentationRecord], failed: Mapping[str, str]) -> None:
    """Write the table: one line per study, those that failed with the reason in place of findings."""
    rows = {record.subject: row_of(record) for record in records}
    rows |= {s: {"subject": s, "status": "failed", "findings": " ".join(why.split())} for s, why in failed.items()}
    write_text(path, csv_text([rows[subject] for subject in sorted(rows)], COLUMNS))
