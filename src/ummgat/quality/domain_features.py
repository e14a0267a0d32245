"""Slices of every domain, real and generated, and their features: what distances between domains are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ummgat.core.domain import Domain
from ummgat.core.each import Progress, each, named
from ummgat.core.study import Study
from ummgat.model.random_features import kernel_distance
from ummgat.model.weights import TrainedModel
from ummgat.quality.directions import generated, translator_of
from ummgat.quality.distances import Sample, Samples, frechet_distance
from ummgat.quality.features import Extractor

Features = NDArray[np.float64]
Volume = NDArray[np.uint8]

BRAIN_SHARE = 0.5
"""A plane counts if its brain covers at least this share of that in the volume's largest plane."""

SLICES_PER_SUBJECT = 24
"""Neighbouring planes are almost the same image: more of them add little."""


def chosen_planes(volume: Volume, n: int = SLICES_PER_SUBJECT) -> NDArray[np.intp]:
    """Up to `n` planes, evenly spaced over those with enough brain (`BRAIN_SHARE`)."""
    area = np.asarray(volume > 0).sum((1, 2))
    planes = np.flatnonzero(area >= max(BRAIN_SHARE * area.max(), 1))
    return planes[np.linspace(0, len(planes) - 1, min(n, len(planes))).round().astype(int)]


def gather(
    studies: Sequence[Study],
    models: Mapping[str, TrainedModel],
    extractors: Sequence[Extractor],
    without_lam: Sequence[str] = (),
    mode: str | None = None,
    per_subject: int = SLICES_PER_SUBJECT,
    within_center: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[list[Samples], dict[str, str]]:
    """Generate every domain from every other of the same study, and take features of real and generated slices.

    Parameters
    ----------
    studies : sequence of Study
        Their acquired sequences are the real images and the sources. Nobody a model trained on.
    models : mapping of name → TrainedModel
        As many as are to be compared: trained with and without the lesion-aware module, other backbones. Domains that
        all of them know count.
    extractors : sequence of Extractor
    without_lam : sequence of str
        Names of models trained without the lesion-aware module.
    mode : str, optional
        Code mode. Default: as each model's validation chose.
    per_subject : int
        Slices per volume at most.
    within_center : bool
        Generate only domains of the study's own center, which takes less time; real domains are compared all the same.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    (list of Samples, dict)
        One per extractor, standardised by its real slices where the extractor says so; and subjects that failed, with
        why.

    Raises
    ------
    ValueError
        No model, or fewer than two domains with an image.
    """
    tables = [model.table for model in models.values()]
    domains = [d for d in tables[0] if all(d in table for table in tables)] if tables else []
    real: list[dict[Domain, dict[str, Features]]] = [{} for _ in extractors]
    made: list[dict[tuple[str, Domain, Domain], dict[str, Features]]] = [{} for _ in extractors]
    order = _Order(models, extractors, domains, mode, per_subject, within_center)
    report = each(_features_of, named(studies, lambda study: study.subject), order, jobs=jobs, progress=progress)
    for subject, (of_real, of_made) in report.done.items():
        for found, own in zip(real, of_real, strict=True):
            for source, features in own.items():
                found.setdefault(source, {})[subject] = features
        for answers, mine in zip(made, of_made, strict=True):
            for key, features in mine.items():
                answers.setdefault(key, {})[subject] = features
    if not extractors or len(real[0]) < 2:
        raise ValueError(
            f"Too few domains to compare. Found {', '.join(str(d) for r in real[:1] for d in r) or 'none'}; expected "
            f"at least 2 that every model knows and a study has. Add studies."
        )
    return [
        _samples(e, {d: r[d] for d in domains if d in r}, {k: v for k, v in m.items() if k[2] in r}, without_lam)
        for e, r, m in zip(extractors, real, made, strict=True)
    ], report.failed


@dataclass(frozen=True)
class _Order:
    models: Mapping[str, TrainedModel]
    extractors: Sequence[Extractor]
    domains: Sequence[Domain]
    mode: str | None
    per_subject: int
    within_center: bool


def _features_of(
    order: _Order, study: Study
) -> tuple[list[dict[Domain, Features]], list[dict[tuple[str, Domain, Domain], Features]]]:
    """Features of one subject's real and generated slices, a mapping per extractor each."""
    real: list[dict[Domain, Features]] = [{} for _ in order.extractors]
    made: list[dict[tuple[str, Domain, Domain], Features]] = [{} for _ in order.extractors]
    for source in [d for d in order.domains if d.center == study.center and d.sequence in study.acquired]:
        volume = np.array(study.volume(source.sequence))
        planes = chosen_planes(volume, order.per_subject)
        for extractor, found in zip(order.extractors, real, strict=True):
            found[source] = extractor(volume[planes])
        for name, model in order.models.items():
            translator = translator_of(model, volume, source)
            for target in order.domains:
                if target == source or (order.within_center and target.center != source.center):
                    continue
                fake = generated(translator, target, order.mode or model.criteria["mode"])[planes]
                for extractor, answers in zip(order.extractors, made, strict=True):
                    answers[name, source, target] = extractor(fake)
    return real, made


def _samples(
    extractor: Extractor,
    real: Mapping[Domain, Sample],
    made: Mapping[tuple[str, Domain, Domain], Sample],
    without_lam: Sequence[str],
) -> Samples:
    center, spread = np.zeros(extractor.n), np.ones(extractor.n)
    if extractor.standardise:
        every = np.concatenate([features for sample in real.values() for features in sample.values()])
        center, spread = every.mean(0), every.std(0) + 1e-6

    def scaled(sample: Sample) -> dict[str, Features]:
        return {subject: (features - center) / spread for subject, features in sample.items()}

    return Samples(
        extractor.name,
        {d: scaled(s) for d, s in real.items()},
        {k: scaled(s) for k, s in made.items()},
        {extractor.frechet: frechet_distance, extractor.kernel: kernel_distance},
        tuple(without_lam),
    )
