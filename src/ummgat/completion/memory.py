"""A model in hand: studies completed in memory, from nibabel images or arrays, with nothing read from or written to
disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from ummgat.completion.fill import Request, fill
from ummgat.completion.native import native_brain, to_native
from ummgat.core.domain import Domain, check_sequence
from ummgat.core.study import header_text
from ummgat.core.volume import Array, Grid
from ummgat.model.weights import TrainedModel, opened_model
from ummgat.prepare.images import prepare_images

Image: TypeAlias = "SpatialImage | tuple[ArrayLike, ArrayLike]"
"""A nibabel image; or voxels of shape (x, y, z) with the (4, 4) affine from voxel index to world mm (RAS+)."""


@dataclass(frozen=True)
class GeneratedImage:
    """A sequence that a model made, on the grid of the image it was made from. Not a scan.

    Parameters
    ----------
    sequence : str
        What it stands for.
    image : Nifti1Image
        uint8 (x, y, z): brain 1–255 in arbitrary units, background 0. Its header says SYNTHETIC.
    reliability : Nifti1Image or None
        uint8: how far to trust each voxel, percent, 0 outside the brain. None if it was not asked for.
    enhancement : Nifti1Image or None
        uint8: probability of enhancing tumour, percent, at least 1 in the brain. None where there is no such question.
    provenance : mapping
        From what, by which model and how: what the sidecar of a file would hold.
    warnings : tuple of str
        What to know before the image is believed.
    """

    sequence: str
    image: nib.Nifti1Image
    reliability: nib.Nifti1Image | None
    enhancement: nib.Nifti1Image | None
    provenance: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Model:
    """A trained model, ready for use. `Model.load()` gives the one that comes with the package.

    Examples
    --------
    >>> import numpy as np, ummgat
    >>> x, y, z = np.ogrid[-28:29:2, -34:35:2, -24:25:2]
    >>> brain = (x / 26.0) ** 2 + (y / 32.0) ** 2 + (z / 22.0) ** 2 < 1
    >>> t1 = np.where(brain, 100 + 20 * np.cos(x / 5.0) * np.cos(y / 7.0), 0), np.diag([2.0, 2.0, 2.0, 1.0])
    >>> model = ummgat.Model.load(device="cpu")
    >>> made = model.complete({"t1": t1}, targets=["t2"], reliability=False)["t2"]
    >>> made.image.shape, str(made.image.header["descrip"].item().decode())
    ((29, 35, 25), 'SYNTHETIC t2 by ummgat, not a scan')
    >>> made.provenance["sources"]
    ['G/t1']
    """

    trained: TrainedModel

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "auto") -> "Model":
        """Read a model.

        Parameters
        ----------
        path : path, optional
            File that `ummgat train` or `ummgat pack` wrote. Default: the bundled weights.
        device : str
            `auto` (a GPU if there is one), `cpu`, `cuda` or `mps`.

        Raises
        ------
        FileNotFoundError, ValueError
            There is no such file, or it is damaged or no model; or there is no such device.
        """
        return cls(opened_model(path, device))

    @property
    def centers(self) -> tuple[str, ...]:
        """Centers that it was trained with."""
        return tuple(self.trained.table.centers)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Sequences that it knows of any center."""
        return tuple(dict.fromkeys(domain.sequence for domain in self.trained.table))

    @property
    def spacing_mm(self) -> float:
        """Voxel size at which it works; images of other sizes are resampled, and results brought back."""
        return self.trained.config.data.spacing_mm

    def complete(
        self,
        images: Mapping[str, Image],
        targets: Sequence[str] | None = None,
        *,
        center: str | None = None,
        reliability: bool = True,
        request: Request | None = None,
    ) -> dict[str, GeneratedImage]:
        """Fill the missing sequences of one study in memory.

        Parameters
        ----------
        images : mapping of sequence → nibabel image, or (voxels, affine)
            What was acquired: co-registered, on one grid, skull-stripped with background exactly 0. Never changed.
        targets : sequence of str, optional
            Sequences to generate. Default: all that the model knows and `images` lacks.
        center : str, optional
            Which of the model's centers the images resemble; never guessed. Needed if the model has several.
        reliability : bool
            Make reliability maps too, which takes several times as long.
        request : Request, optional
            Everything else that may be asked for; `targets` and `reliability` go before what it says of them.

        Returns
        -------
        dict of sequence → GeneratedImage
            On the grid of the first source of each, in its order of voxels.

        Raises
        ------
        ValueError
            Images that are no volume of numbers, have no brain or differ in grid, a center, source or target that the
            model does not know, or nothing to complete from. All problems of the images at once.
        """
        request = replace(request or Request(), with_reliability=reliability)
        if targets is not None:
            request = replace(request, targets=tuple(check_sequence(name, "targets") for name in targets))
        center = center or self.trained.only_center
        if center is None:
            raise ValueError(
                f"Center of the study is unknown: center. Found none; expected one of {', '.join(self.centers)}. Say "
                f"which of these the images resemble; it is never guessed."
            )
        given = {name: voxels_of(name, image) for name, image in images.items()}
        record, volumes, _ = prepare_images(given, subject="in memory", center=center, spacing_mm=self.spacing_mm)
        grid = record.grid.grid()
        made: dict[str, GeneratedImage] = {}
        for found in fill(self.trained, volumes, center, request):
            data, original = given[Domain.parse(found.provenance["sources"][0]).sequence]
            brain = native_brain(data, original, "in memory")

            def native(
                volume: NDArray[np.uint8] | None, text: str = "", brain: Array = brain, original: Grid = original
            ) -> nib.Nifti1Image | None:
                return None if volume is None else image_of(to_native(volume, grid, original, brain), original, text)

            sequence = found.target.sequence
            shown = native(found.volume, header_text(sequence))
            assert shown is not None
            made[sequence] = GeneratedImage(
                sequence,
                shown,
                native(found.reliability),
                native(found.enhancement),
                found.provenance,
                tuple(found.warnings),
            )
        return made


def voxels_of(name: str, image: Image) -> tuple[Array, Grid]:
    """Voxels (x, y, z) and grid of an image in memory.

    Raises
    ------
    ValueError
        It is no single volume of numbers, or its affine places no voxels. `name` is how the message calls it.
    """
    data = np.asanyarray(image.dataobj if isinstance(image, SpatialImage) else image[0])
    affine = np.asarray(image.affine if isinstance(image, SpatialImage) else image[1], dtype=float)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3 or data.dtype.kind not in "iuf" or 0 in data.shape:
        raise ValueError(
            f"Image is not a single grey volume: {name}. Found {data.dtype} of shape {data.shape}; expected numbers of "
            f"shape (x, y, z). Give one volume."
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(
            f"Affine places no voxels: {name}. Found {affine.tolist()}; expected a finite (4, 4) matrix from voxel "
            f"index to mm. Give the image's own."
        )
    if not np.isfinite(data).all():
        bad = int(data.size - np.isfinite(data).sum())
        raise ValueError(
            f"Image has voxels that are not numbers: {name}. Found {bad} NaN or infinite voxels; expected none. Repair "
            f"it."
        )
    return data, Grid.of(data.shape, affine)


def image_of(data: NDArray[np.uint8], grid: Grid, text: str) -> nib.Nifti1Image:
    """Voxels (x, y, z) on their grid as an image, whose header says `text`."""
    image = nib.Nifti1Image(data, grid.matrix)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = text.encode("ascii", "replace")[:79]
    return image
