"""One DICOM series as a volume: which file is which plane, where it lies, and the UIDs that a result must refer to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.core.volume import Grid

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SourceInstance:
    """One plane of a series: a file, or one frame of a multi-frame file."""

    file: Path = field(repr=False)
    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    """Index from 0 within a multi-frame file; None for a file of one plane."""
    position_mm: tuple[float, float, float]
    """ImagePositionPatient: center of the first voxel in DICOM's axes (left, posterior, superior)."""


@dataclass(frozen=True)
class SourceSeries:
    """A DICOM series (or the part of one that forms a volume), its planes sorted by position.

    Plane `instances[k]` is `volume[:, :, k]` of what `convert` writes, whose axes are (column, row, plane) as in the
    files: nothing is flipped, so a result in `grid` goes back plane by plane. Holds paths, which may name a patient:
    never print them.
    """

    series_id: str
    """What the sheet calls it, `dicom:…`: salted, says nothing about the patient."""
    subject: str
    """Label as in the sheet."""
    session: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str | None
    instances: tuple[SourceInstance, ...] = field(repr=False)
    grid: Grid
    """Shape (columns, rows, planes) and affine from voxel index to RAS+ mm, from ImagePositionPatient,
    ImageOrientationPatient and PixelSpacing."""
    orientation: tuple[float, ...]
    """ImageOrientationPatient: direction of increasing column index, then of increasing row index."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel index (column, row, plane) → RAS+ mm."""
        return self.grid.matrix

    @property
    def files(self) -> list[Path]:
        """Files sorted by position; a multi-frame file once."""
        return list(dict.fromkeys(instance.file for instance in self.instances))

    def as_record(self) -> dict[str, Any]:
        """What a sidecar may keep, as JSON: UIDs and geometry, no path and nothing of the patient but the label."""
        return {
            "series": self.series_id,
            "subject": self.subject,
            "session": self.session,
            "study_instance_uid": self.study_uid,
            "series_instance_uid": self.series_uid,
            "frame_of_reference_uid": self.frame_of_reference_uid,
            "shape": list(self.grid.shape),
            "affine_ras_mm": [list(row) for row in self.grid.affine],
            "orientation": list(self.orientation),
            "instances": [
                {
                    "sop_class_uid": i.sop_class_uid,
                    "sop_instance_uid": i.sop_instance_uid,
                    "frame": i.frame,
                    "position_lps_mm": list(i.position_mm),
                }
                for i in self.instances
            ],
        }


def stack_affine(
    orientation: Sequence[float], pixel_spacing: Sequence[float], first: Sequence[float], step: Sequence[float]
) -> NDArray[np.float64]:
    """Affine of a stack of planes.

    Parameters
    ----------
    orientation : 6 floats
        ImageOrientationPatient.
    pixel_spacing : 2 floats
        PixelSpacing, mm: between rows, then between columns.
    first : 3 floats
        ImagePositionPatient of the first plane.
    step : 3 floats
        From one plane's ImagePositionPatient to the next.

    Returns
    -------
    ndarray of shape (4, 4)
        Voxel index (column, row, plane) → RAS+ mm. Source: DICOM PS3.3 C.7.6.2.1.1.

    Examples
    --------
    >>> stack_affine([1, 0, 0, 0, 1, 0], [2, 1], [-9, -8, 7], [0, 0, 3]).tolist()
    [[-1.0, 0.0, 0.0, 9.0], [0.0, -2.0, 0.0, 8.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]]
    """
    lps = np.eye(4)
    lps[:3, 0] = np.asarray(orientation[:3], np.float64) * pixel_spacing[1]
    lps[:3, 1] = np.asarray(orientation[3:], np.float64) * pixel_spacing[0]
    lps[:3, 2], lps[:3, 3] = step, first
    return np.asarray(_LPS_TO_RAS @ lps) + 0.0  # no negative zeros
