"""Pictures of a study: three planes through the lesion, contours of what was segmented, and the word SYNTHETIC where it
belongs.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ummgat.core.study import REGIONS

SIDE = 240
"""Pixels along each side of a plane."""

COLOURS = {"WT": (86, 180, 233), "TC": (240, 228, 66), "ET": (230, 97, 0)}
"""Region → colour of its contour; told apart also by who cannot tell red from green."""

MARK = "SYNTHETIC"

Labels = NDArray[np.uint8]
Place = tuple[int, int, int]


def place_of(labels: Labels, brain: NDArray[np.bool_]) -> Place:
    """Plane, row and column where the whole tumour is largest; the middle of the brain if nothing was segmented.

    Parameters
    ----------
    labels : uint8 ndarray (plane, row, column)
    brain : bool ndarray of the same shape
    """
    shown = np.asarray(labels > 0)
    if shown.any():
        areas = [shown.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
        return int(areas[0].argmax()), int(areas[1].argmax()), int(areas[2].argmax())
    if not brain.any():
        brain = np.ones_like(brain)
    places = [np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return int(places[0].mean()), int(places[1].mean()), int(places[2].mean())


def three_planes(
    volume: NDArray[np.uint8],
    brain: NDArray[np.bool_],
    place: Place,
    title: str,
    labels: Labels | None = None,
    *,
    synthetic: bool = False,
    wt_only: bool = False,
) -> bytes:
    """Draw an axial, a coronal and a sagittal plane side by side.

    Parameters
    ----------
    volume : uint8 ndarray (plane, row, column), isotropic, RAS+
    brain : bool ndarray of the same shape
        What the planes are cut to, so that all images of a study lie alike.
    place : (plane, row, column)
    title : str
        Written into the picture.
    labels : uint8 ndarray of the same shape, optional
        Their regions are outlined.
    synthetic : bool
        Burn the mark in.
    wt_only : bool
        The labels tell only the whole tumour.

    Returns
    -------
    bytes
        PNG. The front of the head, or its top, is above; the patient's left is on the left in axial and coronal planes,
        as in the files, and the letter L says so.
    """
    box = _box(brain)
    longest = max(s.stop - s.start for s in box)
    parts = []
    for axis in range(3):
        part = _square(np.take(volume, place[axis], axis), box, axis, longest)
        grey = np.clip(np.rint(_grown(part.astype(np.float32), longest)), 0, 255).astype(np.uint8)
        colour = np.repeat(grey[..., None], 3, axis=2)
        if labels is not None:
            cut = _square(np.take(labels, place[axis], axis), box, axis, longest)
            for region in ("WT",) if wt_only else COLOURS:
                inside = _grown(np.isin(cut, REGIONS[region]).astype(np.float32), longest) >= 0.5
                colour[inside & ~ndimage.binary_erosion(inside, iterations=1)] = COLOURS[region]
        parts.append(colour)
    image = Image.fromarray(np.concatenate(parts, 1))
    _write(image, title, synthetic)
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data.getvalue()


def as_text(png: bytes) -> str:
    """A picture in base64, for a page that needs no other file."""
    return base64.b64encode(png).decode("ascii")


def _box(brain: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    found = ndimage.find_objects(brain.astype(np.uint8)) if brain.any() else [tuple(slice(0, n) for n in brain.shape)]
    planes, rows, columns = found[0]
    return planes, rows, columns


def _square(cut: NDArray[np.uint8], box: tuple[slice, slice, slice], axis: int, longest: int) -> NDArray[np.uint8]:
    """One plane, cut to the brain, with its top above, in the middle of a square."""
    rows, columns = (s for a, s in enumerate(box) if a != axis)
    part = cut[rows, columns][::-1]
    canvas = np.zeros((longest, longest), np.uint8)
    top, left = (longest - part.shape[0]) // 2, (longest - part.shape[1]) // 2
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def _grown(part: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    out: NDArray[np.float32] = ndimage.zoom(part, SIDE / longest, order=1, mode="grid-constant", grid_mode=True)
    return out


def _write(image: Image.Image, title: str, synthetic: bool) -> None:
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(13), ImageFont.load_default(20)
    draw.text((5, 3), title, (255, 255, 255), small, stroke_width=2, stroke_fill=(0, 0, 0))
    for left in (0, SIDE):  # in a sagittal plane left and right do not show
        draw.text((left + 4, SIDE // 2 - 8), "L", (200, 200, 200), small, stroke_width=1, stroke_fill=(0, 0, 0))
    if synthetic:
        for left in (0, SIDE, 2 * SIDE):
            x = left + (SIDE - draw.textlength(MARK, large)) / 2
            draw.text((x, SIDE - 27), MARK, (255, 110, 110), large, stroke_width=2, stroke_fill=(0, 0, 0))
