"""One HTML page per study and one per cohort, each a single file that opens without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from ummgat.core.files import write_text
from ummgat.core.study import Study
from ummgat.core.version import __version__
from ummgat.front.channels import Channel
from ummgat.front.methods import methods_text
from ummgat.front.planes import COLOURS, as_text, place_of, three_planes
from ummgat.front.record import TABLE, SegmentationRecord

GENERATOR = "ummgat segment"
"""How a page says who wrote it; another one of its name is never replaced."""

MANY_PICTURES = 200
"""A page of a cohort shows so many previews; a file of hundreds of megabytes opens nowhere."""

SHOWN_FIRST = ("flair", "t2", "t1ce", "t1")
"""On which sequence the preview is drawn: the acquired one where a tumour shows best."""

_MEANS = {
    "WT": "whole tumour",
    "TC": "tumour core",
    "ET": "enhancing tumour",
    "NCR": "necrosis",
    "ED": "oedema",
}


def picture_of(study: Study, channels: Sequence[Channel], labels: NDArray[np.uint8], wt_only: bool) -> bytes:
    """Draw the preview: PNG of three planes of one acquired image with contours; of a stand-in, marked, if none was
    acquired.
    """
    order = {q: i for i, q in enumerate(SHOWN_FIRST)}
    seen = [c for c in channels if c.kind != "empty"]
    chosen = min(seen, key=lambda c: (c.kind != "acquired", order.get(c.sequence, len(order))), default=channels[0])
    brain = _brain(study)
    title = f"{study.subject}  {_title(chosen)}"
    place = place_of(labels, brain)
    synthetic = chosen.kind == "generated"
    return three_planes(chosen.volume, brain, place, title, labels, synthetic=synthetic, wt_only=wt_only)


def write_study_page(
    path: Path, record: SegmentationRecord, study: Study, channels: Sequence[Channel], labels: NDArray[np.uint8]
) -> None:
    """Write the page of one study.

    Parameters
    ----------
    path : Path
    record : SegmentationRecord
        Its sidecar.
    study : Study
    channels : sequence of Channel
        What the segmenter got.
    labels : uint8 ndarray (plane, row, column)
    """
    brain = _brain(study)
    place = place_of(labels, brain)
    shown = []
    for channel in channels:
        figure = {"sequence": channel.sequence, "kind": channel.kind, "title": _title(channel), "note": channel.note}
        if channel.kind != "empty":
            marked = channel.kind == "generated"
            for name, contours in (("plain", None), ("outlined", labels)):
                png = three_planes(
                    channel.volume,
                    brain,
                    place,
                    figure["title"],
                    contours,
                    synthetic=marked,
                    wt_only=record.regions == "wt",
                )
                figure[name] = as_text(png)
        if channel.reliability is not None:
            grey = np.round(channel.reliability * 2.55).astype(np.uint8)
            png = three_planes(grey, brain, place, f"reliability of generated {channel.sequence}")
            figure["reliability"] = as_text(png)
        shown.append(figure)
    write_text(path, _rendered("study.html.j2", record=record, shown=shown, methods=methods_text([record])))


@dataclass(frozen=True)
class Line:
    """A study on the page of its cohort."""

    record: SegmentationRecord
    picture: str
    """Its preview, PNG in base64; empty if there are too many."""


def write_cohort_page(path: Path, lines: Sequence[Line], failed: Mapping[str, str]) -> None:
    """Write the page of a cohort; failed studies first, with their reasons."""
    records = [line.record for line in lines]
    methods = methods_text(records) if records else ""
    write_text(path, _rendered("cohort.html.j2", lines=lines, failed=failed, methods=methods, table=TABLE))


def _brain(study: Study) -> NDArray[np.bool_]:
    """Where any image of the study shows brain."""
    return np.asarray(np.logical_or.reduce([study.volume(q) > 0 for q in study.acquired]))


def _title(channel: Channel) -> str:
    if channel.kind in ("acquired", "empty"):
        return f"{channel.sequence} {channel.kind}"
    return f"{channel.sequence} {channel.kind}" + (f" from {', '.join(channel.sources)}" if channel.sources else "")


def _rendered(template: str, **values: Any) -> str:
    text = resources.files("ummgat").joinpath("front", template).read_text(encoding="utf-8")
    style = resources.files("ummgat").joinpath("front", "style.css.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    colours = {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in COLOURS.items()}
    common = {"style": style, "colours": colours, "means": _MEANS, "version": __version__, "generator": GENERATOR}
    return environment.from_string(text).render(**common, **values)
