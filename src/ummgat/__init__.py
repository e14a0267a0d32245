"""UMMGAT: complete missing MRI sequences and align centers with one generative model trained on unpaired data.

Start with `Model.load().complete({"t1": image})` for one study in memory, `complete` for folders of studies, and
`complete_scans` for studies as scanned; `segment` goes from any of these to masks and volumes, `segment_images` does so
in memory. Every image that comes out is generated, and says so.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ummgat.core.version import __version__

if TYPE_CHECKING:
    from ummgat.completion.cohort import CompletionReport, complete
    from ummgat.completion.fill import Request
    from ummgat.completion.memory import GeneratedImage, Model
    from ummgat.completion.scans import ScansReport, complete_scans
    from ummgat.front.cohort import SegmentReport, segment
    from ummgat.front.memory import SegmentedStudy, segment_images

__all__ = [
    "CompletionReport",
    "GeneratedImage",
    "Model",
    "Request",
    "ScansReport",
    "SegmentReport",
    "SegmentedStudy",
    "__version__",
    "complete",
    "complete_scans",
    "segment",
    "segment_images",
]

_HOMES = {
    "complete": "completion.cohort",
    "CompletionReport": "completion.cohort",
    "Request": "completion.fill",
    "Model": "completion.memory",
    "GeneratedImage": "completion.memory",
    "complete_scans": "completion.scans",
    "ScansReport": "completion.scans",
    "SegmentReport": "front.cohort",
    "SegmentedStudy": "front.memory",
    "segment_images": "front.memory",
}
"""Public name → module that it lives in. `segment` is the room of that name, which answers to the call."""


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: preparing data must not wait for it."""
    if name == "segment":
        return import_module("ummgat.segment")
    if name not in _HOMES:
        raise AttributeError(f"module 'ummgat' has no attribute {name!r}")
    return getattr(import_module(f"ummgat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Also what was not imported yet, so that it is found by tab completion."""
    return sorted({*globals(), *__all__})
