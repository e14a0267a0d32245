"""Train the built-in segmenter on a lent accelerator, from the files that `train_in_pieces.py pack` wrote.

    python benchmarks/segment_in_pieces.py --packed packed --out plain --minutes 1
    python benchmarks/segment_in_pieces.py --packed packed --out robust --minutes 1 --teacher
    plain/segmenter.safetensors

With a teacher the segmenter learns every pattern of missing sequences equally often, missing channels empty, and what
the teacher says of the complete images.
"""

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceCELoss
from torch import Tensor

from ummgat.segment.unet import SegmenterConfig, UnetSegmenter, build_unet, load_segmenter, save_segmenter
from ummgat.train.device_sampler import CHANCES, move_grid
from ummgat.train.packed_cohort import NOT_ANNOTATED, Packed, load_packed

LESION_SHARE, GAIN, OFFSET, NOISE = 0.6, 0.15, 0.15, 0.1


class Subjects:
    """All packed subjects that have every sequence and an annotation, normalised on a device."""

    def __init__(self, packed: Packed, config: SegmenterConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        found: dict[str, dict[str, int]] = {}
        for i, volume in enumerate(packed.volumes):
            found.setdefault(volume.subject, {})[volume.sequence] = i
        rows = {
            s: [own[q] for q in config.sequences]
            for s, own in found.items()
            if all(q in own for q in config.sequences)
            and (packed.labels[next(iter(own.values()))] != NOT_ANNOTATED).any()
        }
        self.names = sorted(rows)
        self.index = np.array([rows[s] for s in self.names])
        first = [packed.volumes[row[0]] for row in self.index]
        self.planes = [v.planes - v.first for v in first]
        self.lesion = [v.planes[v.has_lesion] - v.first for v in first]
        self.images = torch.from_numpy(packed.images).to(device)
        self.labels = torch.from_numpy(packed.labels).to(device)
        means, spreads = [], []
        for image in self.images:
            brain = image[image > 0].float()
            means.append(brain.mean())
            spreads.append(brain.std().clamp_min(1.0))
        self.mean, self.spread = torch.stack(means), torch.stack(spreads)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (batch, sequence, plane, row, column), normalised and varied, and labels (batch, 1, row, column)."""
        config, n = self.config, self.config.batch
        rng = np.random.default_rng([config.seed, step])
        subjects = rng.integers(len(self.names), size=n)
        planes = []
        for subject in subjects:
            lesion = len(self.lesion[subject]) and rng.random() < LESION_SHARE
            planes.append(rng.choice(self.lesion[subject] if lesion else self.planes[subject]))
        reach = config.planes // 2
        shown = np.array(planes)[:, None] + np.arange(-reach, reach + 1)
        inside = (shown >= 0) & (shown < self.images.shape[1])
        volume, plane = (
            torch.from_numpy(self.index[subjects]),
            torch.from_numpy(shown.clip(0, self.images.shape[1] - 1)),
        )
        volume, plane = volume.to(self.device), plane.to(self.device)
        raw = self.images[volume[:, :, None], plane[:, None, :]].float()
        raw = raw * torch.from_numpy(inside).to(self.device)[:, None, :, None, None]
        shape = (n, len(config.sequences), 1, 1, 1)
        brain = (raw > 0).float()
        x = (raw - self.mean[volume].view(shape)) / self.spread[volume].view(shape)
        draws = torch.from_numpy(rng.random((n, len(CHANCES)), np.float32)).to(self.device)
        grid = move_grid(draws, (raw.shape[-2], raw.shape[-1]))
        mirror = draws[:, 0] < 0.5
        both = torch.cat([(x * brain).flatten(1, 2), brain.flatten(1, 2)], 1)
        both = F.grid_sample(both, grid, mode="bilinear", align_corners=True)
        labels = self.labels[volume[:, 0], plane[:, reach]][:, None].float()
        labels = F.grid_sample(labels, grid, mode="nearest", align_corners=True)
        both = torch.where(mirror.view(-1, 1, 1, 1), both.flip(-1), both)
        labels = torch.where(mirror.view(-1, 1, 1, 1), labels.flip(-1), labels)
        x, share = (part.view_as(raw) for part in both.chunk(2, 1))
        brain = (share >= 0.5).float()
        x = x / share.clamp_min(0.5) * brain
        gain = torch.from_numpy(np.exp(rng.normal(0, GAIN, shape)).astype(np.float32)).to(self.device)
        offset = torch.from_numpy(rng.normal(0, OFFSET, shape).astype(np.float32)).to(self.device)
        noise = torch.from_numpy(rng.uniform(0, NOISE, (n, 1, 1, 1, 1)).astype(np.float32)).to(self.device)
        return (x * gain + offset + noise * torch.randn_like(x)) * brain, labels


def main() -> None:
    """Train for some minutes; print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--planes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="instead of what fits into the minutes")
    parser.add_argument("--widths", type=int, nargs=5, default=[32, 64, 128, 256, 256])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    packed = load_packed(sorted(args.packed.glob("part*.safetensors")), args.threads)
    config = SegmenterConfig(
        spacing_mm=json.loads((args.packed / "config.json").read_text())["data"]["spacing_mm"],
        crop=(1, *packed.images.shape[2:]),
        planes=args.planes,
        widths=tuple(args.widths),
        batch=args.batch,
        iterations=args.steps or 100_000,
    )
    subjects = Subjects(packed, config, device)
    net = build_unet(config).to(device)
    teacher = load_segmenter(args.teacher, device).net if args.teacher else None
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    n = len(config.sequences)
    patterns = torch.tensor([p for p in itertools.product((0.0, 1.0), repeat=n) if any(p)], device=device)
    pick = np.random.default_rng(1)
    start, done, step = time.monotonic(), 0.0, 0
    losses: list[float] = []
    while done < 1:
        used = time.monotonic() - start
        done = step / args.steps if args.steps else used / (60 * args.minutes - (start - began))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * max(1 - done, 0) ** 0.9 * min(1.0, (step + 1) / 50)
        x, y = subjects.batch(step)
        whole, given = x.flatten(1, 2), x
        if teacher is not None:
            chosen = torch.from_numpy(pick.integers(len(patterns), size=len(x))).to(device)
            given = x * patterns[chosen].view(len(x), n, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            logits = net(given.flatten(1, 2).contiguous(memory_format=torch.channels_last))
            if teacher is not None:
                with torch.no_grad():
                    told = teacher(whole).float().softmax(1)
        loss = loss_of(logits.float(), y)
        if teacher is not None:
            loss = loss - (told * logits.float().log_softmax(1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"Loss is not finite: step {step}.")
    segmenter = UnetSegmenter(net.cpu().eval(), config.model_copy(update={"iterations": step}), {})
    segmenter.training = {"steps": step, "subjects": subjects.names, "centers": ["G"]}
    if teacher is not None:
        segmenter.training["patterns"] = "every pattern of missing sequences equally often, empty; distilled"
    args.out.mkdir(parents=True, exist_ok=True)
    save_segmenter(args.out / "segmenter.safetensors", segmenter)
    print(json.dumps({"steps": step, "seconds": round(time.monotonic() - began, 1), "losses": losses[-3:]}), flush=True)


if __name__ == "__main__":
    main()
