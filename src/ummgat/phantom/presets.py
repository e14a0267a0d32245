"""Cohorts by name."""

from pathlib import Path

from ummgat.core.domain import SEQUENCES
from ummgat.phantom.write import PhantomConfig, write_phantom

DEMO = PhantomConfig(
    n_subjects={"A": 12, "B": 6},
    n_selection={"A": 1, "B": 1},
    n_test={"A": 3, "B": 1},
    spacing_mm=2.0,
    seed=2025,
)
"""The cohort of the demo: 24 subjects at 2 mm, two centers, one sequence per training patient."""

TINY = PhantomConfig(
    n_subjects={"A": 4, "B": 2}, n_selection={"A": 1, "B": 1}, n_test={"A": 1, "B": 1}, grid="analytic", seed=1
)
"""The cohort of tests: 10 miniature subjects, two centers, a fraction of a second."""

TEN_DOMAIN = PhantomConfig(
    n_subjects={"U": 16, "L": 6},
    n_selection={"U": 2, "L": 1},
    n_test={"U": 6},
    sequences={"U": SEQUENCES, "L": ("t1", "t2")},
    draw="complete",
    layout="brats2018",
    layouts={"U": "ucsf-pdgm"},
    spacing_mm=3.0,
    seed=501,
)
"""The paper's ten domains: a center with eight sequences, named as in UCSF-PDGM, and one with two."""

MENINGIOMA = PhantomConfig(
    n_subjects={"M": 14},
    n_selection={"M": 2},
    n_test={"M": 6},
    sequences={"M": ("t1", "t1ce", "t2", "flair")},
    draw="complete",
    layout="brats2023",
    tumour="meningioma",
    first_scanner=2,
    spacing_mm=3.0,
    seed=1000,
)
"""The paper's external cohort: meningiomas of a center that no glioma cohort has, named as in BraTS 2023-MEN."""

PRESETS = {"demo": DEMO, "tiny": TINY, "ten-domain": TEN_DOMAIN, "meningioma": MENINGIOMA}


def tiny_cohort(out: Path, seed: int = 1, overwrite: bool = False) -> Path:
    """Write `TINY` with another seed: ten miniature subjects for tests."""
    return write_phantom(out, TINY.model_copy(update={"seed": seed}), overwrite)
