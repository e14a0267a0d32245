"""Generated images back in the grid that their source was scanned on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.completion.fill import Generated
from ummgat.core.domain import Domain
from ummgat.core.files import write_json
from ummgat.core.normalise import brain_mask
from ummgat.core.placement import Placement
from ummgat.core.study import Study, header_text
from ummgat.core.volume import Array, Grid, resample, resample_inside, write_volume
from ummgat.prepare.images import reorient
from ummgat.prepare.rigid import moved

NATIVE = "native"
"""Folder inside that of a completed study."""


def image_name(target: Domain, align_to: str | None) -> str:
    """File stem that says what it is: `t2_generated`, or `t2_generated_as-B` when aligned to another center."""
    return f"{target.sequence}_generated" + (f"_as-{align_to}" if align_to else "")


def write_native(
    image: Generated,
    folder: Path,
    stem: str,
    prepared: Grid,
    original: Grid,
    brain: NDArray[np.bool_],
    provenance: dict[str, Any],
    placement: Placement | None = None,
) -> list[str]:
    """Write a generated image, its maps and its sidecar in the grid of its source.

    Parameters
    ----------
    image : Generated
    folder : Path
    stem : str
        Name without suffix.
    prepared : Grid
        Of `image`, in the world of `original`.
    original : Grid
    brain : bool ndarray of shape original.shape
        Exactly these voxels get values.
    provenance : dict
        The sidecar.
    placement : dict, optional
        What the header of the source says about its place, see `placement.placement_of`.

    Returns
    -------
    list of str
        Names of the files.
    """
    volumes = {stem: (image.volume, header_text(image.target.sequence))}
    if image.reliability is not None:
        volumes[f"{stem}_reliability"] = (image.reliability, "")
    if image.enhancement is not None:
        volumes[f"{stem}_enhancement"] = (image.enhancement, "")
    for name, (volume, text) in volumes.items():
        write_volume(folder / f"{name}.nii.gz", to_native(volume, prepared, original, brain), original, text, placement)
    write_json(folder / f"{stem}.json", provenance)
    return [f"{stem}.nii.gz", f"{stem}.json", *(f"{name}.nii.gz" for name in list(volumes)[1:])]


def write_scanned_space(study: Study, generated: Sequence[Generated], folder: Path, align_to: str | None) -> list[str]:
    """Take what was generated for a study prepared with `--raw` back to the grids of the scans.

    Parameters
    ----------
    study : Study
    generated : sequence of Generated
        On the study's grid.
    folder : Path
        Of the completed study; files go into its folder `NATIVE`, if the study knows the way back.
    align_to : str, optional
        For the names.

    Returns
    -------
    list of str
        Files, relative to `folder`. Each image lies on the grid of its first source, within that source's brain.
    """
    alignment = study.record.alignment
    if alignment is None:
        return []
    files = []
    for image in generated:
        source = Domain.parse(image.provenance["sources"][0]).sequence
        back = np.linalg.inv(np.array(alignment.transforms[source]))
        prepared, original = moved(study.grid, back), alignment.original_grids[source].grid()
        shown = np.array(study.volume(source)).T > 0
        brain = resample(shown.astype(np.float32), prepared, original) >= 0.5
        provenance = image.provenance | {
            "source_files": [
                study.record.images[Domain.parse(name).sequence].source_file for name in image.provenance["sources"]
            ],
            "grid_of": source,
        }
        place = study.record.placements.get(source)
        stem = f"{study.subject}_{image_name(image.target, align_to)}"
        files += write_native(image, folder / NATIVE, stem, prepared, original, brain, provenance, place)
    return [f"{NATIVE}/{name}" for name in files]


def native_brain(data: Array, grid: Grid, where: str) -> NDArray[np.bool_]:
    """Brain of a source image in its own voxel order: (x, y, z) bool. `where` it is, is for messages."""
    turned, turned_grid = reorient(data, grid)
    return resample(brain_mask(turned, where), turned_grid, grid, order=0)


def to_native(volume: NDArray[np.uint8], prepared: Grid, original: Grid, brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bring a prepared volume back to the grid it came from.

    Parameters
    ----------
    volume : ndarray (plane, row, column), uint8
        0 is background.
    prepared, original : Grid
    brain : bool ndarray of shape original.shape
        Exactly these voxels get values.

    Returns
    -------
    ndarray of shape original.shape, uint8
        1–255 inside `brain`, 0 elsewhere. Linear; at the rim the nearest brain value counts, so no dark edge appears.
    """
    known = volume > 0
    nearest: Any = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    extended = volume[tuple(nearest)].astype(np.float32).T
    values = resample_inside(extended, np.ones(extended.shape, bool), prepared, original)
    return np.where(brain, np.clip(np.rint(values), 1, 255), 0).astype(np.uint8)
