"""Segmenters: the own U-Net and its training; MONAI bundles, nnU-Net folders and ONNX in a process of their own.

contract says what a segmenter is, load opens any kind. unet, sampling, train and folds are the own; foreign, describe,
meanings, process and worker are those of others.

Called, `ummgat.segment(source, out)` is `ummgat.front.cohort.segment`. Python sets the name `ummgat.segment` to this
room as soon as anything in it is imported, so the room itself must answer to the call of that name.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This room, which can be called."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Segment studies on disk, see `ummgat.front.cohort.segment`."""
        return import_module("ummgat.front.cohort").segment(*args, **named)  # by name: nothing here rests on that room


sys.modules[__name__].__class__ = _Room
