"""A label map as DICOM SEG on the series it belongs to: oedema, necrosis, enhancing tumour, or the whole tumour."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ummgat.core.extras import need
from ummgat.core.study import LABELS, REGIONS
from ummgat.core.version import __version__
from ummgat.core.volume import Array, Grid, in_order_of
from ummgat.export.deidentify import Alias, deidentify
from ummgat.export.header import MANUFACTURER, MODEL, new_uid, read_header, save
from ummgat.export.wording import ascii_only, completed_with
from ummgat.intake.headers import quiet
from ummgat.intake.series import SourceSeries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ALTERED = ("49755003", "SCT", "Morphologically Altered Structure")
_BRAIN = ("12738006", "SCT", "Brain")


@dataclass(frozen=True)
class _Segment:
    label: str
    values: tuple[int, ...]
    code: tuple[str, str, str]
    """Value, scheme, meaning; of DICOM's context group 7159, lesion segmentation types."""


_MULTI = (
    _Segment("Necrotic tumour core", (LABELS["NCR"],), ("6574001", "SCT", "Necrosis")),
    _Segment("Oedema", (LABELS["ED"],), ("79654002", "SCT", "Edema")),
    _Segment("Enhancing tumour", (LABELS["ET"],), ("C113842", "NCIt", "Enhancing Lesion")),
)
_WHOLE = (_Segment("Whole tumour", REGIONS["WT"], ("108369006", "SCT", "Neoplasm")),)


@dataclass(frozen=True)
class Algorithm:
    """What drew the labels."""

    name: str
    version: str


@quiet()  # what pydicom warns of, it quotes
def write_seg(
    labels: Array,
    grid: Grid,
    source: SourceSeries,
    path: Path,
    algorithm: Algorithm,
    *,
    regions: Literal["multi", "wt"] = "multi",
    generated: Sequence[str] = (),
    alias: Alias | None = None,
    series_number: int = 9101,
) -> Path:
    """Write a label map as one DICOM Segmentation object.

    Parameters
    ----------
    labels : ndarray of shape grid.shape, whole numbers
        Numbered as `study.LABELS`, 0 elsewhere.
    grid : Grid
        The source's, its axes possibly flipped or swapped.
    source : SourceSeries
        Acquired series that the segmentation refers to and lies on; of a multi-frame file, all its frames.
    path : Path
    algorithm : Algorithm
    regions : "multi" or "wt"
        With "wt" everything is one segment, the whole tumour.
    generated : sequence of str
        Sequences of the study that were generated, not acquired: the description names them.
    alias : Alias, optional
        Write this label instead of the patient, see `deidentify`.
    series_number : int

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        Unknown labels, no label at all, another grid, a source that cannot be read again, or no name of the algorithm.
    """
    if not algorithm.name.strip() or not algorithm.version.strip():
        raise ValueError(
            "Algorithm of the segmentation is unknown. Found no name or version; expected both, as DICOM SEG demands. "
            "Name it."
        )
    planes = _planes(labels, grid, source)
    segments = [s for s in (_MULTI if regions == "multi" else _WHOLE) if np.isin(planes, s.values).any()]
    numbered = np.zeros(planes.shape, np.uint8)
    for number, segment in enumerate(segments, start=1):
        numbered[np.isin(planes, segment.values)] = number
    highdicom = need("highdicom", "dicom")
    headers = _headers(source)
    described = [_described(s, n, algorithm) for n, s in enumerate(segments, start=1)]
    try:
        data: Dataset = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=numbered[_order(source)],
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=new_uid(),
            series_number=series_number,
            sop_instance_uid=new_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=__version__,
            device_serial_number="0",
            content_label="TUMOUR",
            content_description=_text("Tumour segmentation", generated),
            series_description=_text(f"Tumour by {algorithm.name}", generated),
            content_qualification="RESEARCH",
        )
    # Whatever it does not like in the source's header, it quotes.
    except Exception as error:  # noqa: BLE001
        raise ValueError(
            f"Segmentation cannot refer to this source: {source.series_id}. Found {type(error).__name__} in highdicom; "
            f"expected headers that keep to the standard. Refer to another series, or repair the header."
        ) from None
    if alias is not None:
        deidentify(data, alias)
    save(data, path)
    return path


def _planes(labels: Array, grid: Grid, source: SourceSeries) -> Array:
    """Labels as (plane, row, column) in the order of the source's planes."""
    strange = sorted(set(np.unique(labels).tolist()) - {0, *LABELS.values()})
    if strange or not np.any(labels):
        raise ValueError(
            f"Label map cannot be written as SEG. Found {', '.join(map(str, strange[:8])) or 'no label at all'}; "
            f"expected {', '.join(f'{number} {name}' for name, number in LABELS.items())} somewhere, and 0. Renumber "
            f"or leave it out."
        )
    try:
        turned = in_order_of(labels, grid, source.grid)
    except ValueError as error:
        raise ValueError(
            f"Label map does not lie on its source series: {source.series_id}. Found {grid.shape} voxels; expected "
            f"{source.grid.shape} at the places of the series. Bring it to the original grid."
        ) from error
    return turned.transpose(2, 1, 0).astype(np.uint8)


def _headers(source: SourceSeries) -> "list[Dataset]":
    """What highdicom refers to: a header per plane, or the one of a multi-frame file."""
    if source.instances[0].frame is None:
        return [_known_sex(read_header(source, k)) for k in range(len(source.instances))]
    header = _known_sex(read_header(source))
    if len(source.files) > 1 or int(header.get("NumberOfFrames", 0)) != len(source.instances):
        raise ValueError(
            f"Segmentation cannot refer to this source: {source.series_id}. Found {len(source.instances)} of "
            f"{header.get('NumberOfFrames', 0)} frames of a multi-frame file in use; expected all. Refer to another "
            f"series."
        )
    return [header]


def _known_sex(header: "Dataset") -> "Dataset":
    """Empty what highdicom would refuse, and quote."""
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    return header


def _order(source: SourceSeries) -> list[int]:
    """Planes in the order of `_headers`: by position, or by frame within a multi-frame file."""
    return sorted(range(len(source.instances)), key=lambda k: source.instances[k].frame or 0)


def _described(segment: _Segment, number: int, algorithm: Algorithm) -> Any:
    highdicom = need("highdicom", "dicom")
    coded = highdicom.sr.CodedConcept
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=coded(*_ALTERED),
        segmented_property_type=coded(*segment.code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=ascii_only(algorithm.name)[:64],
            version=ascii_only(algorithm.version)[:64],
            family=coded("123110", "DCM", "Artificial Intelligence"),
        ),
        tracking_uid=new_uid(),
        tracking_id=segment.label,
        anatomic_regions=[coded(*_BRAIN)],
    )


def _text(what: str, generated: Sequence[str]) -> str:
    """Description of at most 64 characters; that it rests on generated images is never what is cut off."""
    rest = f", {completed_with(generated)}" if generated else ""
    if len(rest) > 50:
        rest = f", with {len(generated)} SYNTHETIC sequences"
    return ascii_only(what)[: 64 - len(rest)] + rest
