"""The training loop: who learns when is in `step`, what survives a crash in `state`.

A run folder holds config.json, draw.json, log.jsonl, validation.jsonl, checkpoint.safetensors (resume),
model.safetensors (best so far by `validate`) and last.safetensors (end of the run); tensorboard/ too where it is
installed.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ummgat.core.config import Config
from ummgat.core.data_marks import study_mark
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.draw import Draw
from ummgat.core.files import append_text, write_json, write_text
from ummgat.core.matching import intensity_histogram
from ummgat.core.study import Study
from ummgat.model.asked import asked_brightness, thresholds
from ummgat.model.atlas import Atlas
from ummgat.model.networks import update_average
from ummgat.model.translate import Beside, translate_slices
from ummgat.model.weights import TrainedModel, save_model
from ummgat.train.atlas_learning import TrainingAtlas, training_atlas
from ummgat.train.estimate import Estimate, estimate
from ummgat.train.losses import Expected, Tensors, numbers, structure_loss
from ummgat.train.relation import Relations, relations
from ummgat.train.slices import Batch, SliceSampler, TrainingVolume, index_volumes, selection_volumes, trimmed
from ummgat.train.state import TrainState, load_state, new_state, save_state, started_from
from ummgat.train.step import Step
from ummgat.train.validate import Probe, build_probe, domain_codes, validate

log = logging.getLogger(__name__)

OnStep = Callable[[int, dict[str, float], float], None]
"""Called on the first process after each step: steps done, averaged loss parts, seconds per step."""


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite."""


def plan(config: Config, studies: Sequence[Study], draw: Draw) -> Estimate:
    """Check config, cohort and draw against each other and time two trial steps; trains nothing."""
    volumes = _training_volumes(config, studies, draw)
    _set_threads(config)
    state = new_state(config, len(draw.domains), torch.device("cpu"))
    sampler = _sampler(config, volumes, len(draw.domains), None)
    return _estimate(config, state, sampler, lambda: nullcontext(), torch.device("cpu"))


def train(
    config: Config,
    studies: Sequence[Study],
    draw: Draw,
    out: Path,
    *,
    accelerator: str = "auto",
    start_from: Path | None = None,
    changed_data: bool = False,
    on_estimate: Callable[[Estimate], None] | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Train, or go on with the run in `out`.

    Parameters
    ----------
    config : Config
    studies : sequence of Study
        The prepared cohort. Only training and selection subjects of `draw` are opened.
    draw : Draw
    out : Path
        Run folder. If it holds a checkpoint of the same run, training goes on from there, bit for bit on one CPU.
    accelerator : str
        "auto", "cpu", "cuda", "mps".
    start_from : Path, optional
        Exported model whose weights a new run starts with; a run that goes on has its own. The opening of the config
        (`loss.opening`) holds for it too.
    changed_data : bool
        Go on with the run in `out` although studies are not those that it began with; the exported model says so.
    on_estimate, on_step : callables, optional
        For progress displays.

    Returns
    -------
    Path
        The best model so far by `validate`, exported.

    Raises
    ------
    ValueError
        If `out` holds another run or one of other data, or cohort, config and draw do not fit.
    NonFiniteLossError
        If a loss is not finite; the last good checkpoint stays.
    """
    volumes = _training_volumes(config, studies, draw)
    table = draw.table
    _set_threads(config)
    n = config.train.devices
    if config.train.batch % n:
        raise ValueError(
            f"Bad train.batch. Found {config.train.batch} for {n} devices; expected a multiple. Change either."
        )
    fabric = Fabric(
        accelerator=accelerator, devices=n, strategy="ddp" if n > 1 else "auto", precision=config.train.precision
    )
    fabric.launch()
    first = fabric.is_global_zero
    checkpoint = out / "checkpoint.safetensors"
    chosen = [study for study in studies if study.subject in draw.selection]
    marks = _data_marks(volumes, chosen, table)
    if checkpoint.is_file():
        state = load_state(checkpoint, config, draw, fabric.device, marks, changed_data)
        log.info("Going on from step %d of %s", state.step, out)
    elif start_from is not None:
        state = started_from(start_from, config, table, fabric.device)
    else:
        state = new_state(config, len(table), fabric.device)
    state.data = marks
    if first:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", config.model_dump(mode="json"))
        write_json(out / "draw.json", draw.model_dump(mode="json"))
        _cut_log(out / "log.jsonl", state.step)
        _cut_log(out / "validation.jsonl", state.step)
    atlas = training_atlas(volumes, len(table), out / "atlas.safetensors") if config.model.atlas else None
    if first and atlas is not None:
        _warn_of_few(volumes, table)
    sampler = _sampler(config, volumes, len(table), atlas)
    found = relations(volumes, len(table))
    expected = expectations(config, table, found, None if atlas is None else atlas.atlas, fabric.device)
    seen = selection_volumes(chosen, table, config.data)
    probe = build_probe(volumes, seen, len(table), config, None if atlas is None else atlas.atlas)
    if on_estimate is not None and first and state.step < config.train.iterations:
        on_estimate(_estimate(config, state, sampler, fabric.autocast, fabric.device))
    writer = _tensorboard(out, state.step) if first else None
    step = Step(state.nets, state.optimizers, config, _gradient_averager(fabric), expected)
    records = _Averages()
    saved_at = time.monotonic()
    try:
        while state.step < config.train.iterations:
            began = time.monotonic()
            whole = draw_batch(sampler, config, state.step)
            batch = to_tensors(whole, fabric.device, fabric.global_rank, fabric.world_size)
            with fabric.autocast():
                parts = numbers(step.run(batch, state.step))
            _require_finite("Loss", parts, state.step, checkpoint)
            state.step += 1
            update_average(state.average, state.nets, _ema_decay(config.train.ema_decay, state.step))
            records.add(parts)
            seconds = time.monotonic() - began
            done = state.step == config.train.iterations
            if first and (state.step % config.train.log_every == 0 or done):
                means = records.take()
                _append(out / "log.jsonl", {"step": state.step, **means, "seconds": round(seconds, 4)})
                if writer is not None:
                    for name, value in means.items():
                        writer.add_scalar(f"loss/{name}", value, state.step)
            if on_step is not None and first:
                on_step(state.step, parts, seconds)
            if first and (state.step % config.train.validate_every == 0 or done):
                shown = None if atlas is None else atlas.atlas
                _validate(out, state, config, draw, probe, volumes, found, shown, chosen, writer, last=done)
            if first and (time.monotonic() - saved_at > 60 * config.train.checkpoint_minutes or done):
                save_state(checkpoint, state, config, draw)
                saved_at = time.monotonic()
    finally:
        if writer is not None:
            writer.close()
    return out / "model.safetensors"


def _training_volumes(config: Config, studies: Sequence[Study], draw: Draw) -> list[TrainingVolume]:
    """Those of the draw; ValueError if the paired schedule would learn nothing from them but copying."""
    volumes = index_volumes(studies, draw, config.data)
    if config.train.schedule == "paired" and len({volume.study.subject for volume in volumes}) == len(volumes):
        raise ValueError(
            "Draw has no pairs. Found one sequence of each training subject; expected subjects with several, since "
            "train.schedule is paired. Draw with --mode all, or choose another schedule."
        )
    return volumes


def _data_marks(volumes: Sequence[TrainingVolume], chosen: Sequence[Study], table: DomainTable) -> dict[str, str]:
    """Subject → fingerprint of what the run sees: drawn sequences of training subjects, known ones of selection
    subjects.
    """
    seen: dict[str, tuple[Study, list[str]]] = {}
    for volume in volumes:
        seen.setdefault(volume.study.subject, (volume.study, []))[1].append(volume.sequence)
    for study in chosen:
        seen[study.subject] = (study, [q for q in study.acquired if Domain(study.center, q) in table])
    return {subject: study_mark(study, sequences) for subject, (study, sequences) in seen.items()}


_BESIDE = (
    *("labels_src", "x_true", "labels_ref", "x_clean", "x_tone", "x_same", "near_src", "atlas_src", "atlas_ref"),
    *("noise", "chances"),
)


def to_tensors(batch: Batch, device: torch.device, rank: int = 0, world_size: int = 1) -> Tensors:
    """This process's share of a batch, on its device. Each process draws the whole batch, which is cheap, and the
    same.
    """
    size = len(batch.x_src) // world_size
    own = slice(rank * size, (rank + 1) * size)
    pairs = batch.lesion_src.any((1, 2, 3)) & batch.lesion_ref.any((1, 2, 3))

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Tensors(
        x_src=tensor(batch.x_src[own]),
        y_src=tensor(batch.y_src[own]),
        lesion_src=tensor(batch.lesion_src[own]),
        x_ref=tensor(batch.x_ref[own]),
        y_trg=tensor(batch.y_trg[own]),
        lesion_ref=tensor(batch.lesion_ref[own]),
        z=tensor(batch.z[:, own]),
        lesion_pairs=float(pairs.sum()) / world_size,
        origin=batch.origin,
        **{name: tensor(getattr(batch, name)[own]) for name in _BESIDE if getattr(batch, name) is not None},
    )


def draw_batch(sampler: SliceSampler, config: Config, step: int) -> Batch:
    """The whole batch of a step; cut to the brain unless the schedule is literal, before processes share it."""
    schedule = config.train.schedule
    paired = schedule in ("paired", "mixed")
    batch = sampler.batch(step, config.train.batch, config.model.latent_dim, paired=paired)
    return batch if schedule == "literal" else trimmed(batch, config.model.unit)


FEW_VOLUMES = 5
"""Per domain, below which the mean of an atlas shows single patients."""


def _warn_of_few(volumes: Sequence[TrainingVolume], table: DomainTable) -> None:
    """An atlas travels with the weights, and that of one patient is an image of that patient."""
    for i, domain in enumerate(table):
        n = sum(volume.domain == i for volume in volumes)
        if n < FEW_VOLUMES:
            log.warning(
                "The atlas of %s is the mean of %d patients and goes into the exported model: treat the file as "
                "patient data",
                domain,
                n,
            )


def _sampler(
    config: Config, volumes: Sequence[TrainingVolume], n_domains: int, atlas: TrainingAtlas | None
) -> SliceSampler:
    """Of the run; a trial step needs no atlas, which takes minutes to learn."""
    expected = None if atlas is None else atlas.expected
    return SliceSampler(volumes, n_domains, config.data, config.train.seed, expected, config.model.neighbours)


RING_MM = 2.0
"""Around lesions, where nothing is asked."""


def expectations(
    config: Config, table: DomainTable, found: Relations, atlas: Atlas | None, device: torch.device
) -> Expected:
    """What losses compare to; learnt again from the same volumes when a run goes on."""
    lesions = asked_brightness(table, found.lesions, found.lesion_spreads) / 127.5 - 1
    spreads = np.nan_to_num(found.lesion_spreads) / 127.5
    n = len(lesions)
    explained = np.ones((n, n), np.float32) if atlas is None else explained_structure(atlas)
    ring = max(1, round(RING_MM / config.data.spacing_mm))
    from_where = torch.from_numpy(thresholds(table, config.loss.label_threshold)).to(device)

    def tensor(values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)

    return Expected(tensor(lesions), tensor(spreads), from_where, tensor(explained), ring)


def explained_structure(atlas: Atlas) -> NDArray[np.float32]:
    """Share of the target's local structure that the source's explains, for each pair of domains of an atlas; 1 where
    either is not known. (n_domains, n_domains), [source, target].
    """
    n = len(atlas.means)
    mask = torch.from_numpy((atlas.brain >= 128).astype(np.float32))[:, None]
    images = torch.from_numpy(atlas.means / np.float32(127.5) - 1)[:, :, None]
    shares = np.ones((n, n), np.float32)
    for source in range(n):
        for target in range(n):
            if source != target and atlas.means[source].any() and atlas.means[target].any():
                # What of the target no line in the source explains: roles as in the loss, changed.
                left = float(structure_loss(images[target], images[source], mask))
                shares[source, target] = np.clip(1 - left, 0.05, 1)
    return shares


def _set_threads(config: Config) -> None:
    """Threads per process: two busy processes with two threads each on two cores run ten times slower than one."""
    threads = config.train.threads or max(1, torch.get_num_threads() // config.train.devices)
    torch.set_num_threads(threads)


def _ema_decay(decay: float, step: int) -> float:
    """Ramped: an average of few steps must not remember the initial weights; later ones reach back over half the
    run.
    """
    return min(decay, (1 + step) / (3 + step))


def _require_finite(what: str, values: dict[str, float], step: int, checkpoint: Path) -> None:
    bad = ", ".join(f"{name} {value}" for name, value in values.items() if not np.isfinite(value))
    if bad:
        raise NonFiniteLossError(
            f"{what} is not finite: step {step}. Found {bad}; expected numbers. The last good checkpoint is kept: "
            f"{checkpoint}. Lower the learning rates or raise loss.r1_gamma, and resume from it."
        )


def _gradient_averager(fabric: Fabric) -> Callable[[Iterable[nn.Parameter]], None]:
    """Average over processes by hand, after each backward.

    DistributedDataParallel expects one forward per backward; four networks that call each other break it
    (StarGAN v2 users met this: stargan-v2 issues 33 and 114).
    """
    if fabric.world_size == 1:
        return lambda parameters: None

    def average(parameters: Iterable[nn.Parameter]) -> None:
        own = list(parameters)
        # A process without lesion pairs has no gradient for E where another has one: all take part, with zeros.
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in own])
        flat = cast(Tensor, fabric.all_reduce(flat, reduce_op="mean"))
        start = 0
        for p in own:
            p.grad = flat[start : start + p.numel()].view_as(p).clone()
            start += p.numel()

    return average


def _estimate(
    config: Config,
    state: TrainState,
    sampler: SliceSampler,
    autocast: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> Estimate:
    batch = to_tensors(draw_batch(sampler, config, 0), device)
    with autocast():
        return estimate(config, state.nets, batch, config.train.iterations - state.step)


def _tensorboard(out: Path, step: int) -> Any:
    """A writer of curves and pictures; None without TensorBoard, which is an extra: `log.jsonl` holds every number."""
    if find_spec("tensorboard") is None:
        log.info("No curves for TensorBoard, which is not installed (pip install 'ummgat[tensorboard]'); see log.jsonl")
        return None
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed by the first process only

    return SummaryWriter(str(out / "tensorboard"), purge_step=step)


class _Averages:
    """Means of loss parts since they were last taken; a part counts only where it was computed."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, parts: dict[str, float]) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        means = {name: round(total / self.counts[name], 5) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def _validate(
    out: Path,
    state: TrainState,
    config: Config,
    draw: Draw,
    probe: Probe,
    volumes: Sequence[TrainingVolume],
    found: Relations,
    atlas: Atlas | None,
    chosen: Sequence[Study],
    writer: Any,
    last: bool,
) -> None:
    """Score the moving average, export it if it is the best so far, log scalars and pictures."""
    table = draw.table
    beside = Beside.of(table, config, found.lesions, found.lesion_spreads)
    criteria = validate(state.average, probe, table, chosen, config.train.seed, beside)
    distances = {f"kernel {row['source']} → {row['target']}": row["kernel"] for row in criteria["directions"]}
    _require_finite("Validation", distances, state.step, out / "checkpoint.safetensors")
    model = TrainedModel(
        nets=state.average,
        table=table,
        config=config,
        codes=domain_codes(state.average, probe.real, config.train.seed),
        histograms=np.stack(
            [
                intensity_histogram(v.study.volume(v.sequence) for v in volumes if v.domain == i)
                for i in range(len(table))
            ]
        ),
        spreads=found.spreads.astype(np.float64),
        flickers=found.flickers.astype(np.float64),
        lesions=found.lesions.astype(np.float64),
        lesion_spreads=found.lesion_spreads.astype(np.float64),
        atlas=atlas,
        criteria=criteria,
        training={
            "steps": state.step,
            "draw": draw.mode,
            "train_subjects": len(draw.train),
            "train_volumes": len(volumes),
            "selection_subjects": len(chosen),
            **({"started_from": state.started_from} if state.started_from else {}),
            **({"data_changed_after": state.data_changed} if state.data_changed else {}),
        },
        version="",
        hash="",
    )
    score = criteria["score"]
    if state.best_score is None or score is None or score < state.best_score:
        state.best_score = score
        save_model(out / "model.safetensors", model)
    if last:
        save_model(out / "last.safetensors", model)
    _append(out / "validation.jsonl", {"step": state.step, **criteria})
    shown = "none" if score is None else f"{score:.3f}"
    log.info("Step %d: validation score %s (%s)", state.step, shown, criteria["basis"])
    if writer is not None:
        if score is not None:
            writer.add_scalar("validation/score", score, state.step)
        grid = translated_grid(model, probe)
        if grid is not None:
            writer.add_image("validation/translations", grid, state.step, dataformats="HW")


def translated_grid(model: TrainedModel, probe: Probe) -> NDArray[np.float32] | None:
    """One middle slice of each source domain (first column), translated to every domain; (rows, columns) in [0, 1]."""
    rows = []
    for domain in range(len(model.table)):
        own = [x for _, y, x, _ in probe.sources if y == domain]
        if own:
            x = own[0][len(own[0]) // 2][None]
            codes = model.codes[model.criteria["mode"]]
            source = x.to(codes.device)
            images = [x, *(translate_slices(model.nets.generator, source, c, codes[domain]).cpu() for c in codes)]
            rows.append(torch.cat([image[0, 0].flip(0) for image in images], dim=1))
    return (torch.cat(rows).float() / 2 + 0.5).numpy() if rows else None


def _append(path: Path, record: dict[str, Any]) -> None:
    append_text(path, json.dumps(record) + "\n")


def _cut_log(path: Path, step: int) -> None:
    """Drop lines of steps that a resumed run will do again, and a line that a kill cut short."""
    if not path.is_file():
        return

    def lines() -> Iterator[str]:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["step"] <= step:
                yield line + "\n"

    kept = "".join(lines())
    write_text(path, kept)
