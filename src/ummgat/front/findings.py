"""What to know of a segmented study before its mask is believed, in words."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ummgat.core.study import Study
from ummgat.front.channels import Channel
from ummgat.model.asked import CONTRAST
from ummgat.segment.contract import Segmenter
from ummgat.segment.unet import UnetSegmenter


def findings_of(
    study: Study, channels: Sequence[Channel], segmenter: Segmenter, labels: NDArray[np.uint8]
) -> list[str]:
    """Collect remarks on the study, on what stood in for missing sequences, and on the answer.

    Parameters
    ----------
    study : Study
    channels : sequence of Channel
        What the segmenter got.
    segmenter : Segmenter
        The one that answered.
    labels : uint8 ndarray (plane, row, column)
        Its answer.
    """
    found = [*study.record.findings]
    if study.record.checks is not None:
        found += [finding.text for finding in study.record.checks.findings]
    for channel in channels:
        if channel.kind == "generated":
            of = f" from {', '.join(channel.sources)}" if channel.sources else ""
            found.append(f"{channel.sequence} was generated{of}: it is not a scan.")
        elif channel.kind == "copied":
            of = f" of {', '.join(channel.sources)}" if channel.sources else ""
            found.append(f"{channel.sequence} is missing: a copy{of} stood in for it.")
        elif channel.kind == "empty":
            found.append(
                f"{channel.sequence} is missing and was left empty{f': {channel.note}' if channel.note else ''}."
            )
    kinds = {channel.sequence: channel.kind for channel in channels}
    uptake = [q for q in CONTRAST if q in kinds]
    if uptake and segmenter.regions == "multi" and all(kinds[q] != "acquired" for q in uptake):
        found.append(
            f"No acquired image shows contrast uptake ({', '.join(uptake)} was not scanned): tumour core and enhancing "
            f"tumour in the mask mean nothing."
        )
    robust = isinstance(segmenter, UnetSegmenter) and (segmenter.config.drop > 0 or segmenter.training.get("patterns"))
    if isinstance(segmenter, UnetSegmenter) and not robust and "empty" in kinds.values():
        found.append("The segmenter was not trained with sequences missing: expect less of it.")
    if study.subject in (getattr(segmenter, "training", None) or {}).get("subjects", ()):
        found.append("The segmenter was trained on a subject of this name: the mask says nothing of its quality.")
    if not labels.any():
        found.append("Nothing was segmented. That does not show that there is no lesion.")
    return list(dict.fromkeys(found))
