"""Which segmenter and which model a call uses, and how they are named in a sidecar."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import torch

from ummgat.core.machine import BUNDLED_DROPOUT, BUNDLED_MODEL, BUNDLED_SEGMENTER, given_or_bundled
from ummgat.front.channels import Policy
from ummgat.front.record import NetworkRecord
from ummgat.model.weights import TrainedModel, opened_model
from ummgat.segment.contract import Segmenter
from ummgat.segment.folds import CrossFitted
from ummgat.segment.load import kind_of, load_any
from ummgat.segment.unet import UnetSegmenter

GROUP = "ummgat.segmenters"
"""Entry points of other packages: each names a function without arguments that returns a `Segmenter`."""


@dataclass(frozen=True)
class Foreign:
    """What only a segmenter that others made needs, see `ummgat.segment.load.load_any`."""

    trust: bool = False
    sequences: Sequence[str] | None = None
    orientation: str | None = None
    timeout_s: float = 600.0
    python: Path | None = None


def open_segmenter(
    given: str | Path | Segmenter | CrossFitted | None,
    policy: Policy,
    spacing_mm: float,
    foreign: Foreign,
    device: torch.device,
) -> tuple[Segmenter | CrossFitted, NetworkRecord]:
    """Open the segmenter that was asked for.

    Parameters
    ----------
    given : path, name, Segmenter or None
        A path to any kind that `load_any` opens, the name of an entry point of the group `GROUP`, or a segmenter in
        hand. None: the bundled one; where missing sequences stay empty, the one that was trained with sequences
        missing.
    policy : "generate", "empty" or "copy"
    spacing_mm : float
        Voxel size of the images it will get; own segmenters know theirs, see `own_spacing`.
    foreign : Foreign
    device : torch.device

    Raises
    ------
    FileNotFoundError, ValueError
        There is none such, it is foreign and not trusted, or it does not open.
    """
    if given is not None and not isinstance(given, str | Path):
        return given, NetworkRecord(file="in memory", hash=getattr(given, "hash", "") or "unknown")
    point = _entry_point(given)
    if point is not None:
        found = point.load()()
        dist = point.dist
        version = f"{dist.name} {dist.version}" if dist is not None else ""
        return found, NetworkRecord(file=point.name, hash=getattr(found, "hash", "") or "unknown", version=version)
    path = given_or_bundled(given, BUNDLED_DROPOUT if policy == "empty" else BUNDLED_SEGMENTER)
    opened = load_any(
        path,
        spacing_mm,
        foreign.trust,
        foreign.timeout_s,
        foreign.sequences,
        foreign.orientation,
        foreign.python,
        device,
    )
    version = opened.version if isinstance(opened, UnetSegmenter) else ""
    return opened, NetworkRecord(file=path.name, hash=opened.hash, version=version)


def own_spacing(given: str | Path | Segmenter | CrossFitted | None, policy: Policy) -> float | None:
    """Voxel size that a segmenter was trained at, mm; None if only the caller can know, as of a foreign one."""
    if given is None or isinstance(given, str | Path):
        if _entry_point(given) is not None:
            return None
        path = given_or_bundled(given, BUNDLED_DROPOUT if policy == "empty" else BUNDLED_SEGMENTER)
        if kind_of(path) not in ("own", "folds"):
            return None
        given = load_any(path, 1.0)
    member = given.members[0] if isinstance(given, CrossFitted) else given
    return member.config.spacing_mm if isinstance(member, UnetSegmenter) else None


def open_model(model: str | Path | TrainedModel | None, device: str) -> tuple[TrainedModel, NetworkRecord]:
    """Open the generative model: a file, the name of a bundled one, or one in hand; None is the bundled default."""
    opened = opened_model(model, device)
    if isinstance(model, TrainedModel):
        name = "in memory"
    else:
        name = given_or_bundled(model, BUNDLED_MODEL).name
    return opened, NetworkRecord(file=name, hash=opened.hash or "unknown", version=opened.version)


def check_model(model: TrainedModel, spacing_mm: float, center: str | None, prepared: bool) -> None:
    """Say now, and not after an hour of registration, what would fail every study.

    Parameters
    ----------
    model : TrainedModel
    spacing_mm : float
        At which the segmenter works.
    center : str or None
        As whose the studies are taken; None: as each one's own, which only prepared studies know.
    prepared : bool

    Raises
    ------
    ValueError
        Model and segmenter want other voxel sizes, or the model does not know the center.
    """
    needs = model.config.data.spacing_mm
    if abs(needs - spacing_mm) > 1e-3:
        raise ValueError(
            f"Model and segmenter work at different voxel sizes: --model, --segmenter. Found {needs:g} mm and "
            f"{spacing_mm:g} mm; expected one. Choose a pair that fits, or --policy empty."
        )
    if center is None and not prepared:
        raise ValueError(
            f"Center of the studies is unknown: --center. Found none; expected one of "
            f"{', '.join(model.table.centers)}. Say which of these they resemble; it is never guessed."
        )
    if center is not None and center not in model.table.centers:
        raise ValueError(
            f"Model does not know the center: --center. Found {center}; expected one of "
            f"{', '.join(model.table.centers)}. Say which of these the studies resemble, or choose another --policy."
        )


def _entry_point(given: str | Path | None) -> EntryPoint | None:
    """The installed segmenter of that name; a file or folder of the name goes first."""
    if given is None or Path(given).exists():
        return None
    return next((point for point in entry_points(group=GROUP) if point.name == str(given)), None)
