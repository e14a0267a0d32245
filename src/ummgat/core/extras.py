"""Packages of an extra: imported where they are used, and asked for by the extra's name when missing."""

from importlib import import_module
from typing import Any


def need(module: str, extra: str) -> Any:
    """Import `module`; ValueError that names the extra to install if it is not there.

    Examples
    --------
    >>> need("json", "dicom").dumps([1])
    '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there and broken: that is another matter
        raise ValueError(
            f"Package is missing: {module.partition('.')[0]}. Found it not installed; expected it for this step. "
            f"Run `pip install ummgat[{extra}]`."
        ) from error
