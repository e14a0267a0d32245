"""UMMGAT: complete missing MRI sequences and align centers with one generative model trained on unpaired data."""

from typing import TYPE_CHECKING, Any

from ummgat.core.version import __version__

__all__ = ["CompletionReport", "Request", "ScansReport", "__version__", "complete", "complete_scans"]

if TYPE_CHECKING:
    from ummgat.completion.cohort import CompletionReport, complete
    from ummgat.completion.fill import Request
    from ummgat.completion.scans import ScansReport, complete_scans


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: preparing data must not wait for it."""
    if name in ("complete", "CompletionReport"):
        from ummgat.completion import cohort as module

        return getattr(module, name)
    if name in ("complete_scans", "ScansReport"):
        from ummgat.completion import scans

        return getattr(scans, name)
    if name == "Request":
        from ummgat.completion.fill import Request

        return Request
    raise AttributeError(f"module 'ummgat' has no attribute {name!r}")
