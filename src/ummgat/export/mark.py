"""The burned-in mark: the word SYNTHETIC in the pixels themselves, for readers that show no header."""

import numpy as np

from ummgat.core.volume import Array
from ummgat.export.wording import MARK

_LETTERS = {  # 3 wide, 5 high
    "S": "### #.. ### ..# ###",
    "Y": "#.# #.# .#. .#. .#.",
    "N": "##. #.# #.# #.# #.#",
    "T": "### .#. .#. .#. .#.",
    "H": "#.# #.# ### #.# #.#",
    "E": "### #.. ##. #.. ###",
    "I": "### .#. .#. .#. ###",
    "C": "### #.. #.. #.. ###",
}


def burn_in(planes: Array) -> Array:
    """Write the mark into the upper left corner of every plane, as bright as the brightest voxel, on 0.

    Parameters
    ----------
    planes : ndarray of shape (planes, rows, columns)

    Returns
    -------
    ndarray of the same shape and dtype, a copy

    Raises
    ------
    ValueError
        If the planes are too small to hold the word.
    """
    text = _bitmap()
    rows, columns = planes.shape[1:]
    if rows < 2 * text.shape[0] or columns < text.shape[1]:
        raise ValueError(
            f"Planes are too small for a burned-in mark. Found {columns} x {rows} voxels; expected at least "
            f"{text.shape[1]} x {2 * text.shape[0]}. Leave --mark out: the header says {MARK} in any case."
        )
    text = np.kron(text, np.ones((max(1, columns // (2 * text.shape[1])),) * 2, text.dtype))
    out = planes.copy()
    out[:, : text.shape[0], : text.shape[1]] = np.where(text, planes.max(), 0).astype(planes.dtype)
    return out


def _bitmap() -> Array:
    """The word, (7, 37) bool, with a rim."""
    letters = [np.array([[c == "#" for c in row] for row in _LETTERS[letter].split()]) for letter in MARK]
    return np.pad(np.hstack([np.pad(letter, ((1, 1), (0, 1))) for letter in letters]), ((0, 0), (1, 0)))
