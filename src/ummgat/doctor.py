"""What this machine offers: versions, devices, precision, extras, bundled weights, free disk space.

Every check reports, none raises: the doctor must speak when the patient cannot.
"""

import os
import platform
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ummgat.core.machine import BUNDLED_MODEL, bundled_file, devices, gigabytes
from ummgat.core.version import __version__

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True)
class Precision:
    """Matrix products in float32 and in bfloat16, timed on the CPU with one thread count."""

    float32_ms: float
    bfloat16_ms: float

    @property
    def ratio(self) -> float:
        """Time of bfloat16 over that of float32: below 1, the CPU has units for it."""
        return self.bfloat16_ms / self.float32_ms


@dataclass
class Examination:
    """What `examine` found."""

    versions: dict[str, str | None]
    """Python, this package and each of its dependencies; None where one is not installed."""
    extras: dict[str, list[str]]
    """Optional extra → packages of it that are not installed."""
    system: str
    cores: int
    threads: int | None
    """Of torch; None without torch."""
    devices: dict[str, str]
    """Device name for --device → description."""
    cpu_precision: Precision | None
    precision: str
    """What `train.precision` should be here."""
    advice: str
    """Why, in one sentence."""
    bundled_model: str | None
    free_disk_bytes: int | None
    memory_bytes: int | None
    problems: list[str] = field(default_factory=list)
    """What keeps UMMGAT from working; empty if nothing does."""

    def as_json(self) -> dict[str, Any]:
        """JSON-ready copy."""
        value = asdict(self)
        if self.cpu_precision is not None:
            value["cpu_precision"]["ratio"] = self.cpu_precision.ratio
        return value


def examine(folder: Path | None = None) -> Examination:
    """Examine this machine; takes about a second, most of it to import torch.

    Parameters
    ----------
    folder : Path, optional
        Where results would go, for the free disk space. Default: the working folder.
    """
    versions, extras = _packages()
    problems = [
        f"Package is missing: {name}. Found none; expected it beside ummgat. Install it: pip install {name}"
        for name, version in versions.items()
        if version is None
    ]
    threads, present, timing = None, {}, None
    precision, advice = "32-true", "torch is missing, so nothing was timed."
    try:
        import torch
    except (
        ImportError,
        OSError,
    ) as error:  # OSError: a library that torch loads is missing or was built for another CPU
        problems.append(f"torch cannot be imported. Found {error}; expected a working torch. Install it again.")
    else:
        threads = torch.get_num_threads()
        present = devices()
        timing = time_precisions()
        precision, advice = recommend(timing, present)
    bundled = bundled_file(BUNDLED_MODEL)
    return Examination(
        versions=versions,
        extras=extras,
        system=f"{platform.system()} {platform.release()} on {platform.machine()}",
        cores=_cores(),
        threads=threads,
        devices=present,
        cpu_precision=timing,
        precision=precision,
        advice=advice,
        bundled_model=None if bundled is None else str(bundled),
        free_disk_bytes=_free_disk(folder or Path.cwd()),
        memory_bytes=_memory(),
        problems=problems,
    )


def rows(found: Examination) -> list[tuple[str, str]]:
    """What was found as (topic, text) lines for printing, problems not included."""
    lines = [(name, version or "missing") for name, version in found.versions.items()]
    lines.append(("system", found.system))
    threads = "" if found.threads is None else f", torch uses {found.threads} threads"
    lines.append(("CPU", f"{found.cores} cores{threads}"))
    for name, description in found.devices.items():
        lines.append((f"device {name}", description))
    if found.cpu_precision is not None:
        p = found.cpu_precision
        slower = f"{p.ratio:.0f} times slower" if p.ratio >= 1.5 else f"{p.ratio:.2f} of the time"
        lines.append(
            ("bfloat16 on the CPU", f"{p.bfloat16_ms:.1f} ms against {p.float32_ms:.2f} ms in float32: {slower}")
        )
    lines.append(("train.precision", f'use "{found.precision}". {found.advice}'))
    for extra, missing in found.extras.items():
        lines.append((f"extra {extra}", f"absent, without {', '.join(missing)}" if missing else "present"))
    lines.append(("bundled model", found.bundled_model or "none: give --model to `ummgat complete`"))
    lines.append(("free disk", gigabytes(found.free_disk_bytes)))
    lines.append(("memory", gigabytes(found.memory_bytes)))
    return lines


def time_precisions(side: int = 256) -> Precision:
    """Time a square matrix product in both precisions, best of three each."""
    import torch

    milliseconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(side, side).to(dtype)
        a @ a
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - began)
        milliseconds.append(1000 * best)
    return Precision(*milliseconds)


def recommend(timing: Precision, devices: dict[str, str]) -> tuple[str, str]:
    """`train.precision` for the device that training would choose, and why in one sentence."""
    if "cuda" in devices:
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "The GPU has units for it."
        return "32-true", "The GPU has no bfloat16 units."
    if "mps" in devices:
        return "32-true", "bfloat16 on this GPU was never tried."
    if timing.ratio < 0.8:
        return "bf16-mixed", "This CPU has units for it."
    if timing.ratio < 1.5:
        return "32-true", "bfloat16 brings nothing on this CPU."
    return (
        "32-true",
        f"This CPU has no bfloat16 units: training with it would be up to {timing.ratio:.0f} times slower.",
    )


def _packages() -> tuple[dict[str, str | None], dict[str, list[str]]]:
    """Versions of what is required, and what each extra still lacks."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "ummgat": __version__}
    extras: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires("ummgat") or []
        extras = {name: [] for name in metadata.metadata("ummgat").get_all("Provides-Extra") or []}
    except metadata.PackageNotFoundError:  # run from a source folder that was never installed
        requirements = []
    for requirement in requirements:
        match, extra = _REQUIREMENT.match(requirement), _EXTRA.search(requirement)
        if match is None:
            continue
        version = _version(match[1])
        if extra is None:
            versions[match[1]] = version
        elif version is None:
            extras.setdefault(extra[1], []).append(match[1])
    return versions, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _free_disk(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _memory() -> int | None:
    """Memory still available where the system tells (Linux), else all of it, else None."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
