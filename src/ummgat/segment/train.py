"""Train the built-in segmenter. Exactly resumable: batches and rates are functions of the step."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torch.optim import AdamW

from ummgat.core.data_marks import require_same_data, study_mark
from ummgat.core.files import append_text
from ummgat.core.metrics import dice
from ummgat.core.study import REGIONS, Study, require_spacing
from ummgat.core.tensors import (
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    with_prefix,
    without_prefix,
)
from ummgat.core.version import __version__
from ummgat.segment.folds import folds_of
from ummgat.segment.sampling import draw_batch, read_subject
from ummgat.segment.unet import SegmenterConfig, UnetSegmenter, build_unet, load_segmenter, save_segmenter

FORMAT = "ummgat-segmenter-checkpoint-1"

SAVE_EVERY = 250
"""Steps between checkpoints."""

OnStep = Callable[[int, float], None]
"""Called with the number of steps done and the loss."""


def train_segmenter(
    config: SegmenterConfig,
    training: Sequence[Study],
    selection: Sequence[Study],
    out: Path,
    device: torch.device | None = None,
    on_step: OnStep | None = None,
    told: Mapping[str, Any] | None = None,
    changed_data: bool = False,
) -> Path:
    """Train on annotated studies; the same call goes on where a killed one was.

    Parameters
    ----------
    config : SegmenterConfig
    training : sequence of Study
        Their names are kept in the exported file, so that nobody tests on them.
    selection : sequence of Study
        Scored at the end, for information; they choose nothing here.
    out : Path
        Run folder: `segmenter.safetensors`, `checkpoint.safetensors`, `log.jsonl`.
    told : mapping, optional
        Further facts to keep in the exported file, see `train_folds`.
    changed_data : bool
        Go on although studies are not those that the run in `out` began with.

    Returns
    -------
    Path
        The exported segmenter.

    Raises
    ------
    ValueError
        Subjects that cannot train it, in both parts, at another spacing, or a folder of another run or of other data.
    FloatingPointError
        If the loss is not finite; the last checkpoint is kept.
    """
    both = sorted({s.subject for s in training} & {s.subject for s in selection})
    if both or not training:
        raise ValueError(
            f"Cannot train a segmenter. Found {', '.join(both) or 'no'} "
            f"{'in training and selection' if both else 'training'} subjects; expected two parts without a common "
            f"subject, the first not empty. Check the draw."
        )
    for study in [*training, *selection]:
        require_spacing(study, config.spacing_mm)
    subjects = [read_subject(study, config) for study in training]
    device = device or torch.device("cpu")
    out.mkdir(parents=True, exist_ok=True)
    net = build_unet(config).to(device)
    optimizer = AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    identity: dict[str, object] = {"config": config.model_dump(mode="json"), "subjects": [s.subject for s in training]}
    marks = {study.subject: study_mark(study, config.sequences) for study in training}
    checkpoint = out / "checkpoint.safetensors"
    step = 0
    if checkpoint.is_file():
        step = _restore(checkpoint, net, optimizer, identity, device, marks, changed_data)
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    net.train()
    while step < config.iterations:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.iterations) ** 0.9
        batch = draw_batch(subjects, config, step)
        loss: Tensor = loss_of(net(batch.x.to(device)), batch.y.to(device))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"Loss is not finite: step {step}. Found {loss.item()}; expected a number. The last good checkpoint is "
                f"kept: {checkpoint}. Lower the learning rate and start anew."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % SAVE_EVERY == 0 or step == config.iterations:
            _save(checkpoint, net, optimizer, identity | {"data": marks}, step)
        if step % 50 == 0:
            append_text(out / "log.jsonl", json.dumps({"step": step, "loss": round(loss.item(), 5)}) + "\n")
        if on_step:
            on_step(step, loss.item())
    segmenter = UnetSegmenter(net.eval().requires_grad_(False), config, {})
    segmenter.training = {
        "steps": config.iterations,
        "subjects": [s.subject for s in training],
        "centers": sorted({s.center for s in training}),
        "selection_dice": {s.subject: score(segmenter, s) for s in selection},
        **(told or {}),
    }
    save_segmenter(out / "segmenter.safetensors", segmenter)
    return out / "segmenter.safetensors"


def train_folds(
    config: SegmenterConfig,
    studies: Sequence[Study],
    n: int,
    out: Path,
    device: torch.device | None = None,
    on_step: OnStep | None = None,
    changed_data: bool = False,
) -> dict[str, dict[str, float]]:
    """Cross-fit: train `n` segmenters, each on all subjects but those of its fold, into `out/fold1` and so on.

    Parameters
    ----------
    on_step : callable, optional
        Called with the steps done of all folds together, and the loss.
    changed_data : bool
        See `train_segmenter`.

    Returns
    -------
    dict of subject → region → Dice
        Of each subject, by the segmenter that held it back. Resumable as `train_segmenter`; errors as there.
    """
    held_back: dict[str, dict[str, float]] = {}
    for i, fold in enumerate(folds_of([s.subject for s in studies], n, config.seed)):
        training = [s for s in studies if s.subject not in fold]
        held = [s for s in studies if s.subject in fold]
        done = i * config.iterations
        told = {"folds": n, "held_out": fold}
        path = train_segmenter(
            config,
            training,
            held,
            out / f"fold{i + 1}",
            device,
            None if on_step is None else lambda step, loss, done=done: on_step(done + step, loss),  # type: ignore[misc]
            told,
            changed_data,
        )
        held_back |= load_segmenter(path).training["selection_dice"]
    return held_back


def score(segmenter: UnetSegmenter, study: Study) -> dict[str, float]:
    """Dice per region of an annotated study with all its true images."""
    truth = study.labels()
    assert truth is not None
    found = segmenter({q: np.asarray(study.volume(q)) for q in segmenter.sequences})
    regions = REGIONS if segmenter.regions == "multi" else {"WT": REGIONS["WT"]}
    return {name: round(dice(np.isin(found, of), np.isin(truth, of)), 4) for name, of in regions.items()}


def _save(path: Path, net: nn.Module, optimizer: AdamW, identity: dict[str, object], step: int) -> None:
    tensors = with_prefix("net", net.state_dict()) | with_prefix("optimizer", optimizer_tensors(optimizer))
    save_tensors(path, tensors, {"format": FORMAT, "version": __version__, "step": step, **identity})


def _restore(
    path: Path,
    net: nn.Module,
    optimizer: AdamW,
    identity: dict[str, object],
    device: torch.device,
    marks: Mapping[str, str],
    changed_data: bool,
) -> int:
    """Load a checkpoint of the same run; returns its step."""
    tensors, metadata = load_tensors(path, FORMAT)
    different = [name for name, value in identity.items() if metadata.get(name) != value]
    if different:
        raise ValueError(
            f"Checkpoint belongs to another run: {path}. Found other {' and '.join(different)}; expected the same. "
            f"Choose another output folder, or go on with the settings of that run."
        )
    require_same_data(path, metadata.get("data"), marks, changed_data)
    net.load_state_dict({k: v.to(device) for k, v in without_prefix("net", tensors).items()})
    restore_optimizer(optimizer, without_prefix("optimizer", tensors))
    return int(metadata["step"])
