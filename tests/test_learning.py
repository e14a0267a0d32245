"""Minutes of real training: what the losses are for shows in the images, and reliability in their errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ummgat.completion.fill import Request, fill
from ummgat.core.config import load_config
from ummgat.core.domain import Domain
from ummgat.core.draw import make_draw
from ummgat.core.matching import match_histogram
from ummgat.core.metrics import rank_correlation
from ummgat.core.study import load_cohort
from ummgat.demo import run as demo
from ummgat.model.weights import load_model
from ummgat.phantom import PhantomConfig, write_phantom
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.train.calibrate import calibrate
from ummgat.train.loop import train

STEPS = 90
SPACING_MM = 4.0
FEWER = {"n_subjects": {"A": 9, "B": 4}, "n_selection": {"A": 3, "B": 0}, "n_test": {"A": 1, "B": 1}}
PHANTOM = PhantomConfig(**(demo.PHANTOM.model_dump() | FEWER))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(source, target) → generated image, truth, histogram-matched copy: of a patient that training never saw."""
    folder: Path = tmp_path_factory.mktemp("learning")
    write_phantom(folder / "phantom", PHANTOM)
    split = folder / "phantom" / "split.json"
    for part in ("studies", "truth"):
        settings = PrepareSettings(spacing_mm=SPACING_MM, centers=split)
        assert not prepare_cohort(folder / "phantom" / part, folder / part, settings).failed
    cohort = load_cohort(folder / "studies")
    draw = make_draw(cohort, "strict", 0, split_file=split)
    assert all(len(sequences) == 1 for sequences in draw.train.values())
    config = load_config("tiny")
    coarse = {
        "data": {"spacing_mm": SPACING_MM, "crop": (48, 48)},
        "model": {"window": 6},  # divides 24, 12 and 6 tokens
        "train": {"iterations": STEPS},
    }
    config = config.model_copy(
        update={room: getattr(config, room).model_copy(update=changes) for room, changes in coarse.items()}
    )
    model = load_model(train(config, cohort, draw, folder / "run", accelerator="cpu"))
    parts = json.loads(split.read_text())
    truths = {s.subject: s for s in load_cohort(folder / "truth")}
    learnt, _ = calibrate(model, [truths[s] for s in parts["selection"]])
    model = replace(model, trust=learnt.trust, leanings=learnt.leanings)
    truth = truths[next(s for s in parts["test"] if s.startswith("Phantom_A"))]
    volumes = {q: np.array(truth.volume(q)) for q in ("t1", "t1ce", "t2", "flair")}
    found = {}
    for source, volume in volumes.items():
        for image in fill(model, {source: volume}, "A", Request(sources=(source,), mode="mean")):
            target = image.target.sequence
            matched = match_histogram(volume, model.histograms[model.table.index(Domain("A", target))])
            found[source, target] = image, volumes[target], matched
    return found


def test_contrasts_turn_and_distrust_goes_with_the_true_error(filled):
    """One test, since what it looks at takes minutes and each process of pytest would make its own."""
    contrasts_turn_and_others_do_not(filled)
    distrust_goes_with_the_true_error(filled)


def contrasts_turn_and_others_do_not(filled):
    """T1 to T2 and back must invert, T1 to T1ce must not; one sequence per patient, nothing paired."""
    got, copied = {}, {}
    for direction, (image, truth, matched) in filled.items():
        brain = truth > 0
        got[direction] = np.corrcoef(image.volume[brain], truth[brain])[0, 1]
        copied[direction] = np.corrcoef(matched[brain], truth[brain])[0, 1]
    print({d: (round(got[d], 2), round(copied[d], 2)) for d in got})
    for direction in (("t1", "t2"), ("t2", "t1")):
        assert copied[direction] < -0.3
        assert got[direction] > 0.3
    for direction in (("t1", "t1ce"), ("t1ce", "t1")):
        assert got[direction] > 0.5


def distrust_goes_with_the_true_error(filled):
    """Rank correlation over the brain, mean of twelve directions; 0 if the map said nothing."""
    ranks = {}
    for direction, (image, truth, _) in filled.items():
        brain = truth > 0
        error = np.abs(image.volume.astype(np.float32) - truth)[brain]
        ranks[direction] = rank_correlation(100.0 - image.reliability[brain], error)
    print({d: round(r, 2) for d, r in ranks.items()})
    assert len(ranks) == 12
    assert np.mean(list(ranks.values())) > 0.15
