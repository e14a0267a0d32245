"""The last step of the demo: from patients who lack sequences to masks, volumes and pages, by what `ummgat segment`
does.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ummgat.core.study import Study, write_study
from ummgat.front.cohort import segment
from ummgat.model.weights import TrainedModel

LEFT = (("t1",), ("t1", "t2", "flair"), ("t1ce", "t2"))
"""What the patients still have, one after the other."""


def demo_masks(out: Path, model: TrainedModel, tests: Sequence[Study]) -> Path:
    """Take sequences away from test phantoms and segment what is left.

    Parameters
    ----------
    out : Path
        Folder of the demo, with segmenter/ in it: gets gaps/, the incomplete patients, and masks/.
    model : TrainedModel
        Generates what is missing.
    tests : sequence of Study
        With all their sequences; each loses others.

    Returns
    -------
    Path
        The page of all studies.
    """
    for study, left in zip(tests, LEFT, strict=False):
        record = study.record.model_copy(deep=True)
        record.images = {q: record.images[q] for q in left}
        record.labels_file = None
        write_study(out / "gaps" / study.subject, record, {q: np.array(study.volume(q)) for q in left}, None)
    report = segment(out / "gaps", out / "masks", out / "segmenter" / "segmenter.safetensors", model=model)
    if report.failed or report.page is None:
        raise ValueError(
            f"Phantoms could not be segmented: {out}. Found {report.failed}; expected none. This is a bug."
        )
    return report.page
