"""Criteria by which checkpoints, sources and code modes are chosen, without paired truth where users have none.

Unpaired, always: kernel distance to the target domain, cycle error, code agreement. By true images, only where a
selection subject happens to have them; the report says which. Test subjects never come here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.config import Config
from ummgat.core.crop import crop
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.metrics import gradient_energy
from ummgat.core.study import Study
from ummgat.model.atlas import Atlas, bring, place
from ummgat.model.masked import to_unit
from ummgat.model.networks import Networks
from ummgat.model.random_features import FEATURES, RandomFeatures, kernel_distance
from ummgat.model.translate import Beside, translate_slices
from ummgat.model.unet import Aside
from ummgat.model.weights import unpaired_score
from ummgat.train.slices import Drawn, SliceSampler, TrainingVolume

PLANES = 4
"""Planes per selection volume, evenly spaced over those with enough brain."""

REAL_SLICES = 64
"""Training slices per domain that stand for the domain."""

DETAIL_GREYS = 10.0
"""Grey levels that a factor of e too much or too little gradient energy costs a checkpoint: mean absolute error alone
is won by the flattest images, which no segmentation model has seen."""


class Probe(NamedTuple):
    """Slices that every validation of a run looks at."""

    real: list[Tensor]
    """Per domain: training slices (n, 1, row, column)."""
    sources: list[tuple[str, int, Tensor, Tensor]]
    """Per selection volume: subject, domain, slices (n, 1, row, column), lesion masks of the same shape."""
    near: list[Tensor]
    """Per selection volume: planes below and above, (n, 2, row, column), [0, 2] above background."""
    maps: list[Tensor | None]
    """Per selection volume: the atlas there, (n, n_domains, row, column), [0, 2]; None without one."""


def build_probe(
    volumes: Sequence[TrainingVolume],
    selection: Sequence[TrainingVolume],
    n_domains: int,
    config: Config,
    atlas: Atlas | None = None,
) -> Probe:
    """Choose the slices, deterministically."""
    real = []
    for domain in range(n_domains):
        own = [v for v in volumes if v.domain == domain]
        share = max(1, REAL_SLICES // len(own))
        real.append(torch.cat([chosen_slices(v, config, share)[0] for v in own]))
    sources = [(v.study.subject, v.domain, *chosen_slices(v, config, PLANES)) for v in selection]
    reader = SliceSampler(selection, n_domains, config.data, config.train.seed, near=True)
    near: list[Tensor] = []
    maps: list[Tensor | None] = []
    for v in selection:
        drawn = [Drawn(v, int(plane), False) for plane in v.planes[chosen_positions(v, PLANES)]]
        near.append(torch.from_numpy(np.stack([reader.near_planes(d) for d in drawn])))
        if atlas is None or not atlas.means[v.domain].any():
            maps.append(None)
            continue
        volume = np.asarray(v.study.volume(v.sequence))
        at = bring(atlas, place(volume, config.data.spacing_mm, atlas.means[v.domain], atlas.brain))
        shown = SliceSampler(selection, n_domains, config.data, 0, {(v.study.subject, v.sequence): at})
        maps.append(torch.from_numpy(np.stack([shown.maps(d, range(n_domains)) for d in drawn])))
    return Probe(real, sources, near, maps)


def chosen_positions(volume: TrainingVolume, n: int) -> NDArray[np.int64]:
    """Up to `n` evenly spaced places in `volume.planes`."""
    return np.unique(np.linspace(0, len(volume.planes) - 1, n).round().astype(np.int64))


def chosen_slices(volume: TrainingVolume, config: Config, n: int) -> tuple[Tensor, Tensor]:
    """Up to `n` evenly spaced planes of the training crop, and their lesion masks: (n, 1, row, column), float32 and
    bool.
    """
    planes = volume.planes[chosen_positions(volume, n)]
    voxels, lesion = volume.study.volume(volume.sequence), volume.study.lesion()
    images = crop(voxels[planes], volume.corner, *config.data.crop)
    masks = np.zeros(images.shape, bool) if lesion is None else crop(lesion[planes], volume.corner, *config.data.crop)
    return torch.from_numpy(to_unit(images))[:, None], torch.from_numpy(masks)[:, None]


@torch.inference_mode()
def domain_codes(nets: Networks, real: Sequence[Tensor], seed: int) -> dict[str, Tensor]:
    """One code per domain and mode: `mean` of E over training slices, `mapper` mean over 1,000 latents. (n_domains,
    code_dim).
    """
    device = next(nets.encoder.parameters()).device
    noise = torch.randn(1000, nets.mapper.latent_dim, generator=torch.Generator().manual_seed(seed)).to(device)
    means, mapped = [], []
    for y, x in enumerate(real):
        means.append(_encode(nets, x.to(device), y).mean(0))
        mapped.append(nets.mapper(noise, torch.full((len(noise),), y, device=device)).mean(0))
    return {"mapper": torch.stack(mapped), "mean": torch.stack(means)}


def _encode(nets: Networks, x: Tensor, y: int) -> Tensor:
    return torch.cat([nets.encoder(part, torch.full((len(part),), y, device=x.device)) for part in x.split(32)])


@torch.inference_mode()
def validate(
    nets: Networks,
    probe: Probe,
    table: DomainTable,
    studies: Sequence[Study],
    seed: int,
    beside: Beside,
) -> dict[str, Any]:
    """Score every direction between domains on selection subjects.

    Parameters
    ----------
    nets : Networks
        Moving averages.
    probe : Probe
    table : DomainTable
    studies : sequence of Study
        Selection subjects, whose true images are used where they exist.
    seed : int
    beside : Beside
        What is asked of lesions.

    Returns
    -------
    dict
        `directions`: list of rows (mode, source, target, kernel, kernel_copy, cycle, agreement, detail, mae or None,
        mae_lesion or None, n), detail being gradient energy over that of real slices of the target;
        `score`: what checkpoints are compared by, lower is better; `basis`: what it rests on;
        `mode` and `sources`: the chosen code mode and, per target, sources best first. JSON-ready.
    """
    device = next(nets.encoder.parameters()).device
    codes = domain_codes(nets, probe.real, seed)
    features = RandomFeatures().to(device)
    real = [features(x.to(device)).cpu().numpy().astype(np.float64) for x in probe.real]
    energies = [_gradient_energy(x) for x in probe.real]
    center, spread = np.concatenate(real).mean(0), np.concatenate(real).std(0) + 1e-6
    real = [(f - center) / spread for f in real]
    centroids = torch.stack([nets.encoder.features(x.to(device)).mean(0) for x in probe.real])
    truth = {(s, y): (x, lesion) for s, y, x, lesion in probe.sources}
    centers_of = {study.subject: study.center for study in studies}
    rows = []
    for mode, table_codes in codes.items():
        for trg, target in enumerate(table):
            for src, source in enumerate(table):
                own = [(s, x.to(device)) for s, y, x, _ in probe.sources if y == src and src != trg]
                if not own:
                    continue
                x = torch.cat([v for _, v in own])
                aside = _aside(probe, beside, x, src, trg)
                fake = translate_slices(nets.generator, x, table_codes[trg], table_codes[src], aside=aside)
                again = Aside(own=aside.expected, expected=aside.own)
                back = translate_slices(
                    nets.generator, _perturbed(fake), table_codes[src], table_codes[trg], aside=again
                )
                brain = x > -1
                nearest = torch.cdist(nets.encoder.features(fake), centroids).argmin(1)
                paired = [
                    (fake[i], *(t.to(device) for t in truth[s, trg]))
                    for i, s in zip(_runs(own), [s for s, _ in own], strict=True)
                    if (s, trg) in truth and centers_of[s] == target.center
                ]
                errors = [_paired_mae(f, t) for f, t, _ in paired]
                lesion_errors = [_paired_mae(f, t, lesion) for f, t, lesion in paired if lesion.any()]
                rows.append(
                    {
                        "mode": mode,
                        "source": str(source),
                        "target": str(target),
                        "kernel": kernel_distance(_standard(features(fake), center, spread), real[trg]),
                        "kernel_copy": kernel_distance(_standard(features(x), center, spread), real[trg]),
                        "cycle": float((x - back).abs()[brain].mean() * 127.5),
                        "agreement": float((nearest == trg).float().mean()),
                        "detail": (_gradient_energy(fake) + 1) / (energies[trg] + 1),
                        "mae": float(np.mean(errors)) if errors else None,
                        "mae_lesion": float(np.mean(lesion_errors)) if lesion_errors else None,
                        "n": len(x),
                    }
                )
    return {"features": FEATURES, "directions": rows, **choose(rows, table)}


def _aside(probe: Probe, beside: Beside, x: Tensor, source: int, target: int) -> Aside:
    """What G is shown beside the slices of all selection volumes of a domain."""
    own = [i for i, (_, y, _, _) in enumerate(probe.sources) if y == source]
    near = torch.cat([probe.near[i] for i in own]).to(x.device)
    maps = [m for m in (probe.maps[i] for i in own) if m is not None]
    return beside.aside(x, source, target, near, torch.cat(maps).to(x.device) if len(maps) == len(own) else None)


def _perturbed(fake: Tensor) -> Tensor:
    """Generated slices as uint8 would keep them, so that no information hides in noise below one grey level."""
    rounded = ((fake + 1) * 127.5).round().clamp(1, 255) / 127.5 - 1
    return torch.where(fake > -1, rounded, -1.0)


def _runs(own: list[tuple[str, Tensor]]) -> list[slice]:
    """Where each volume's slices lie in their concatenation."""
    ends = np.cumsum([len(x) for _, x in own])
    return [slice(int(end) - len(x), int(end)) for end, (_, x) in zip(ends, own, strict=True)]


def _paired_mae(fake: Tensor, true: Tensor, region: Tensor | None = None) -> float:
    """In grey levels over the brain, or over the part of it in `region`; NaN if shapes differ."""
    if fake.shape != true.shape:
        return float("nan")
    brain = (fake > -1) & (true > -1)
    return float((fake - true).abs()[brain if region is None else brain & region].mean() * 127.5)


def _gradient_energy(x: Tensor) -> float:
    """Of slices (n, 1, row, column), in squared grey levels, see `ummgat.core.metrics.gradient_energy`."""
    slices = x[:, 0].cpu().numpy()
    return gradient_energy(127.5 * slices, slices > -1)


def _standard(features: Tensor, center: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((features.cpu().numpy().astype(np.float64) - center) / spread)


def choose(rows: Sequence[dict[str, Any]], table: DomainTable) -> dict[str, Any]:
    """Choose code mode and sources from validation rows.

    Within a target, sources of its own center come first (completion); by true images if every such direction has
    them, else by `unpaired_score`. The source for one target is never judged by two rulers.
    """
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    if not rows:
        return {"score": None, "basis": "no selection subjects", "mode": "mean", "sources": {}, "sources_basis": {}}
    totals = {}
    paired = any(row["mae"] is not None for row in rows)
    for mode in modes:
        own = [row for row in rows if row["mode"] == mode]
        if paired:
            detail = _mean(abs(float(np.log(row["detail"]))) for row in own)
            totals[mode] = _mean(row["mae"] for row in own) + _mean(row["mae_lesion"] for row in own)
            totals[mode] += DETAIL_GREYS * detail
        else:
            totals[mode] = _mean(unpaired_score(row) for row in own)
    best = min(modes, key=lambda mode: totals[mode])
    sources, bases = {}, {}
    for target in table:
        own = [row for row in rows if row["mode"] == best and row["target"] == str(target)]
        same = [row for row in own if Domain.parse(row["source"]).center == target.center]
        by_truth = bool(same) and all(row["mae"] is not None for row in same)
        ranked = sorted(same, key=lambda row: row["mae"] if by_truth else unpaired_score(row))
        ranked += sorted((row for row in own if row not in same), key=unpaired_score)
        sources[str(target)] = [row["source"] for row in ranked]
        bases[str(target)] = "true images of selection subjects" if by_truth else "unpaired criteria"
    basis = "MAE to true images of selection subjects, brain plus lesion, and detail" if paired else "unpaired criteria"
    return {"score": totals[best], "basis": basis, "mode": best, "sources": sources, "sources_basis": bases}


def _mean(values: Iterable[float | None]) -> float:
    """Of those that are known; 0 if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
