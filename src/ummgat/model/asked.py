"""What is asked of lesions in each domain: how bright each label, and from which probability on enhancing tumour is
drawn.
"""

import numpy as np
from numpy.typing import NDArray

from ummgat.core.domain import DomainTable

CONTRAST = ("t1ce",)
"""Sequences acquired to show enhancement: there it is drawn from a low threshold on, and one spread brighter than its
mean, so that what is drawn by halves is still seen."""

ET = 2
"""Column of enhancing tumour among labels."""

Floats = NDArray[np.floating]


def asked_brightness(table: DomainTable, means: Floats, spreads: Floats) -> NDArray[np.float32]:
    """Lesion code of each domain, grey levels.

    Parameters
    ----------
    table : DomainTable
    means, spreads : ndarray (n_domains, n_labels)
        Of training lesions, see `ummgat.train.relation.Relations`. NaN where unknown, and so in the result.
    """
    asked = np.array(means, np.float32)
    for i, domain in enumerate(table):
        if domain.sequence in CONTRAST and asked.shape[1] > ET:
            asked[i, ET] = min(asked[i, ET] + np.nan_to_num(spreads[i, ET]), 250.0)
    return asked


def thresholds(table: DomainTable, threshold: float) -> NDArray[np.float32]:
    """Of each domain, see `ummgat.model.lesion_gate.drawing`: 1 where labels differ too little to be worth a guess."""
    return np.array([threshold if domain.sequence in CONTRAST else 1.0 for domain in table], np.float32)
