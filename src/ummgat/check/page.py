"""One HTML page of thumbnails per cohort, to flip through: findings first, no network needed."""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.check.reference import Reference
from ummgat.core.files import write_text
from ummgat.core.png import as_png
from ummgat.core.study import FindingRecord, Study
from ummgat.core.version import __version__

_SIDE = 96


def write_page(
    path: Path,
    studies: Sequence[Study],
    findings: Mapping[str, Sequence[FindingRecord]],
    failed: Mapping[str, str],
    reference: Reference,
) -> Path:
    """Write the page; studies with findings come first, each with three planes of every sequence.

    Parameters
    ----------
    path : Path
    studies : sequence of Study
    findings : mapping of subject → findings
    failed : mapping of subject → why it could not be checked
    reference : Reference
        By whose limits the findings are, for the foot of the page.
    """
    ordered = sorted(studies, key=lambda s: (s.subject not in failed and not findings.get(s.subject), s.subject))
    cards = [_card(study, findings.get(study.subject, ()), failed.get(study.subject)) for study in ordered]
    template = resources.files("ummgat").joinpath("check", "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(
        cards=cards,
        n_with=sum(bool(card["findings"]) or bool(card["failed"]) for card in cards),
        reference=reference,
        version=__version__,
    )
    write_text(path, html)
    return path


def _card(study: Study, findings: Sequence[FindingRecord], failed: str | None) -> dict[str, object]:
    images = []
    for name, record in study.record.images.items():
        try:
            picture = thumbnail(np.array(study.volume(name)))
        except (ValueError, OSError):  # the reason is in `failed`
            picture = ""
        doubted = any(name in finding.images for finding in findings)
        images.append({"name": name, "kind": record.kind, "picture": picture, "doubted": doubted})
    return {
        "subject": study.subject,
        "center": study.center,
        "images": images,
        "findings": [f"{finding.check}: {finding.text}" for finding in findings],
        "remarks": study.record.findings,
        "failed": failed,
    }


def thumbnail(volume: NDArray[np.uint8]) -> str:
    """PNG in base64 of an axial, a coronal and a sagittal plane through the brain's middle.

    Parameters
    ----------
    volume : uint8 ndarray (plane, row, column), isotropic, RAS+

    Returns
    -------
    str
        Front of the head, or its top, above; the patient's left on the left, as in the files.
    """
    places = [np.flatnonzero((volume > 0).any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not places[0].size:
        return ""
    middle = [int((p[0] + p[-1]) // 2) for p in places]
    planes = [volume[middle[0]], volume[:, middle[1]], volume[:, :, middle[2]]]
    longest = max(int(p[-1] - p[0] + 1) for p in places)
    shown = []
    for plane, axes in zip(planes, ((1, 2), (0, 2), (0, 1)), strict=True):
        canvas = np.zeros((longest, longest), np.uint8)
        rows, columns = (places[a] for a in axes)
        cut = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][::-1]
        top, left = (longest - cut.shape[0]) // 2, (longest - cut.shape[1]) // 2
        canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
        grown = ndimage.zoom(canvas.astype(np.float32), _SIDE / longest, order=1, mode="grid-constant", grid_mode=True)
        shown.append(np.clip(np.rint(grown), 0, 255).astype(np.uint8))
    return base64.b64encode(as_png(np.concatenate(shown, 1))).decode("ascii")
