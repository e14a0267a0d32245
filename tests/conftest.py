"""One miniature cohort, prepared once per session, and one model trained on it for seconds. Nobody writes to them."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: miniatures gain nothing from threads, and results stay exact

import numpy as np
import pytest

from ummgat.core.config import Config
from ummgat.core.draw import make_draw
from ummgat.core.study import load_cohort
from ummgat.phantom import tiny_cohort
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings


def pytest_collection_modifyitems(items):
    """The longest test first: whoever has it last keeps the other processes waiting."""
    items.sort(key=lambda item: item.path.name != "test_learning.py")


DOMAINS = ["A/t1", "A/t1ce", "A/t2", "B/t2"]
"""Four of the six domains of the cohort; in the strict draw one subject each."""


def tiny_config(**changes):
    """Four networks of a few thousand weights on 20×24 slices, smaller than the brains (up to 25×21).

    `changes` go by `section__key`, e.g. train__batch=2.
    """
    values = {
        "data": {"spacing_mm": 1.0, "crop": [20, 24]},
        "model": {
            "width": 8,
            "depths": [1, 1],
            "window": 4,
            "heads": 1,
            "pixel_width": 4,
            "code_dim": 4,
            "latent_dim": 4,
            "mapper_width": 8,
            "encoder_widths": [4, 8],
            "discriminator_widths": [4, 8],
        },
        "loss": {},
        "train": {
            "iterations": 4,
            "batch": 2,
            "lr_generator": 1e-3,
            "schedule": "alternating",
            "threads": 1,
            "validate_every": 1000,
            "log_every": 1,
        },
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section][key] = value
    return Config.model_validate(values)


def slices(n, height=24, width=28, seed=0):
    """(n, 1, height, width) float32: smooth random texture in (-0.9, 0.9) in a round brain on background -1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    texture = sum(
        rng.uniform(0.1, 0.3, (n, 1, 1)) * np.sin(rng.uniform(1, 6, (n, 1, 1)) * t + rng.uniform(0, 6, (n, 1, 1)))
        for t in (rows, columns, rows + columns)
    )
    return np.where(rows**2 + columns**2 < 0.8, texture, -1).astype(np.float32)[:, None]


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """`studies/`, `truth/`, `split.json` and `centers.csv` of ten subjects of two centers, 24×28×28 voxels of 1 mm,
    LPS.
    """
    return tiny_cohort(tmp_path_factory.mktemp("phantom") / "phantom")


@pytest.fixture(scope="session")
def cohort(phantom, tmp_path_factory):
    """The phantom, prepared at 1 mm."""
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    report = prepare_cohort(phantom / "studies", out, PrepareSettings(centers=phantom / "centers.csv"))
    assert not report.failed
    return out


@pytest.fixture(scope="session")
def cohort_studies(cohort):
    return load_cohort(cohort)


@pytest.fixture(scope="session")
def strict_draw(phantom, cohort_studies):
    """One sequence per training subject; one selection and one test subject per center, who have all of theirs."""
    return make_draw(cohort_studies, "strict", 0, domains=DOMAINS, split_file=phantom / "split.json")


@pytest.fixture(scope="session")
def trained_run(cohort_studies, strict_draw, tmp_path_factory):
    """Folder of a finished run of four steps."""
    from ummgat.train.loop import train

    out = tmp_path_factory.mktemp("trained") / "run"
    train(tiny_config(), cohort_studies, strict_draw, out, accelerator="cpu")
    return out


@pytest.fixture(scope="session")
def model_path(trained_run, tmp_path_factory):
    """The model of `trained_run`, as if it knew its errors, so that reliability maps are made."""
    from ummgat.model.signs import n_columns
    from ummgat.model.trust import STEPS, Trust
    from ummgat.model.weights import load_model, save_model

    model = load_model(trained_run / "model.safetensors")
    n = len(model.table)
    weights = np.random.default_rng(0).normal(0, 0.3, (n, n_columns(n))).astype(np.float32)
    model.trust = Trust(weights, np.tile(np.linspace(0, 1, STEPS, dtype=np.float32), (n, 1)))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, model)
    return path


@pytest.fixture(scope="module")
def model(model_path):
    """The model of `trained_run`, read anew for each file of tests."""
    from ummgat.model.weights import load_model

    return load_model(model_path)


@pytest.fixture(scope="module")
def studies(cohort_studies):
    """Two of center A with all that the miniature model knows of it."""
    found = [s for s in cohort_studies if s.center == "A" and {"t1", "t1ce", "t2"} <= set(s.sequences)]
    assert len(found) >= 2
    return found[:2]
