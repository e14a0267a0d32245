"""Labels back on the grids of what was scanned."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.completion.native import NATIVE
from ummgat.core.study import Study
from ummgat.core.volume import Grid, write_volume
from ummgat.prepare.labels import resample_labels
from ummgat.prepare.rigid import moved

HEADER = "labels by ummgat: 1 NCR 2 ED 3 ET; not for diagnosis"
"""What the header of a label map says; NIfTI gives it 79 characters."""


def scanned_grids(study: Study) -> dict[str, tuple[Grid, Grid]]:
    """Find the grids that results go back to.

    Returns
    -------
    dict of name → (Grid, Grid)
        The study's grid in the world of a file, and the grid of that file. The name is a sequence, of which each has
        its own grid if the study was registered here; `study` if all its images came on one grid.
    """
    alignment = study.record.alignment
    if alignment is None:
        return {"study": (study.grid, study.record.original_grid.grid())}
    found = {}
    for sequence in study.acquired:
        back = np.linalg.inv(np.array(alignment.transforms[sequence]))
        found[sequence] = moved(study.grid, back), alignment.original_grids[sequence].grid()
    return found


def write_labels_back(study: Study, labels: NDArray[np.uint8], folder: Path) -> dict[str, str]:
    """Write a label map on each grid of `scanned_grids`, in the voxel order of its file.

    Parameters
    ----------
    study : Study
    labels : uint8 ndarray (plane, row, column)
        On the study's grid.
    folder : Path
        Files go into its folder `native/`.

    Returns
    -------
    dict of name → file
        Relative to `folder`.
    """
    files = {}
    for name, (here, original) in scanned_grids(study).items():
        on = "" if name == "study" else f"_on-{name}"
        file = f"{NATIVE}/{study.subject}_labels{on}.nii.gz"
        back = resample_labels(np.ascontiguousarray(labels.T), here, original)
        write_volume(folder / file, back, original, HEADER)
        files[name] = file
    return files
