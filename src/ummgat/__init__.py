"""UMMGAT: complete missing MRI sequences and align centers with one generative model trained on unpaired data.

Start with `Model.load().complete({"t1": image})` for one study in memory, `complete` for folders of studies, and
`complete_scans` for studies as scanned. Every image that comes out is generated, and says so.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ummgat.core.version import __version__

if TYPE_CHECKING:
    from ummgat.completion.cohort import CompletionReport, complete
    from ummgat.completion.fill import Request
    from ummgat.completion.memory import GeneratedImage, Model
    from ummgat.completion.scans import ScansReport, complete_scans

__all__ = [
    "CompletionReport",
    "GeneratedImage",
    "Model",
    "Request",
    "ScansReport",
    "__version__",
    "complete",
    "complete_scans",
]

_HOMES = {
    "complete": "cohort",
    "CompletionReport": "cohort",
    "Request": "fill",
    "Model": "memory",
    "GeneratedImage": "memory",
    "complete_scans": "scans",
    "ScansReport": "scans",
}
"""Public name → module of `completion` that it lives in."""


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: preparing data must not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ummgat' has no attribute {name!r}")
    return getattr(import_module(f"ummgat.completion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Also what was not imported yet, so that it is found by tab completion."""
    return sorted({*globals(), *__all__})
