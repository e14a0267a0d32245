"""Train on a machine with an accelerator that is lent for minutes and reaches nothing: pack here, run there, finish
here.

    python benchmarks/train_in_pieces.py pack fine --data cohort --draw draw.json --out packed --parts 2
    python benchmarks/train_in_pieces.py run --packed packed --out there --minutes 8
    python benchmarks/train_in_pieces.py finish there --packed packed --data cohort --draw draw.json --out run

`pack` learns the atlas, writes the training part of the cohort as small files, what losses expect of it, and the
config. `run` needs numpy, scipy, Pillow, nibabel, pydantic, safetensors and torch, no registration library and no
network; it writes the state in pieces of a size that any channel takes, goes on where it was if its folder holds one,
and prints its throughput as JSON. `finish` scores and exports what came back, as `ummgat train` does at the end of a
run, and packs it as `ummgat pack` does.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ummgat.core.config import Config, load_config
from ummgat.core.files import write_json
from ummgat.core.tensors import (
    all_finite,
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    with_prefix,
    without_prefix,
)
from ummgat.model.networks import Networks, build_networks, moving_average_of, update_average
from ummgat.train.captured import CapturedStep
from ummgat.train.device_sampler import DeviceSampler
from ummgat.train.losses import Expected, aside_of, numbers
from ummgat.train.overrides import with_overrides
from ummgat.train.packed_cohort import load_packed
from ummgat.train.step import Step, build_optimizers

EXPECTED, STATE = "ummgat-expected-1", "ummgat-piece-1"

PIECE_BYTES = 15 * 2**20


def pack(args: argparse.Namespace) -> None:
    """Write `packed/`."""
    from ummgat.core.draw import load_draw
    from ummgat.core.study import load_cohort
    from ummgat.train.atlas_learning import training_atlas
    from ummgat.train.loop import expectations
    from ummgat.train.packed_cohort import pack as write
    from ummgat.train.relation import relations
    from ummgat.train.slices import index_volumes

    config = with_overrides(load_config(args.preset), args.set)
    draw = load_draw(args.draw)
    volumes = index_volumes(load_cohort(args.data), draw, config.data)
    args.out.mkdir(parents=True, exist_ok=True)
    atlas = training_atlas(volumes, len(draw.table), args.atlas or args.out / "atlas.safetensors")
    expected = expectations(config, draw.table, relations(volumes, len(draw.table)), atlas.atlas, torch.device("cpu"))
    tensors = {name: value for name, value in expected._asdict().items() if isinstance(value, Tensor)}
    save_tensors(args.out / "expected.safetensors", tensors, {"format": EXPECTED, "ring": expected.ring})
    write_json(args.out / "config.json", config.model_dump(mode="json"))
    subjects = sorted({v.study.subject for v in volumes})
    for part in range(args.parts):
        own = set(subjects[part :: args.parts])
        file = args.out / f"part{part + 1}.safetensors"
        chosen = [v for v in volumes if v.study.subject in own]
        write(chosen, draw.table.names, atlas.expected, config.data.crop, file, args.quality)
        print(f"{file}: {len(own)} subjects, {file.stat().st_size / 2**20:.1f} MiB")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train until the minutes are over or the iterations done; returns what is to be recorded."""
    began = time.monotonic()
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    parts = sorted(args.packed.glob("part*.safetensors"))
    raw = json.loads((args.packed / "config.json").read_text())
    config = with_overrides(load_config(args.preset) if args.preset else Config.model_validate(raw), args.set)
    packed = load_packed(parts, args.threads)
    sampler = DeviceSampler(packed, config.data, config.train.seed, device, count_pairs=config.loss.lesion > 0)
    expected = read_expected(args.packed / "expected.safetensors", device)
    unpacked = time.monotonic() - began
    nets = build_networks(config.model, len(packed.domains), config.train.seed).to(device)
    average = moving_average_of(nets)
    optimizers = build_optimizers(nets, config.train, capturable=cuda)
    state = load_pieces(args.out) if any(args.out.glob("piece*.safetensors")) else {}
    start = 0
    if state:
        tensors, start, iterations = state["tensors"], state["step"], state["iterations"]
        config = with_overrides(config, [f"train.iterations={iterations}"])
        restore(tensors, nets, average)
        for name, optimizer in optimizers.named():
            restore_optimizer(optimizer, without_prefix(f"optimizers.{name}", tensors))
    elif args.start:
        restore(load_pieces(args.start)["tensors"], nets, average)
        # What goes on training is the average, which is what was good; D is what it was.
        for name, module in average.named():
            dict(nets.named())[name].load_state_dict(module.state_dict())
    step_ = Step(nets, optimizers, config, lambda parameters: None, expected)
    dtype = torch.bfloat16 if args.bf16 else None
    captured = CapturedStep(step_, dtype) if cuda and not args.eager else None
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    paired = config.train.schedule == "mixed"
    args.out.mkdir(parents=True, exist_ok=True)
    times: list[float] = []
    step, last = start, time.monotonic()
    deadline = began + 60 * args.minutes if args.minutes else math.inf
    fitted = not args.fit or bool(state)
    while step < config.train.iterations:
        batch = sampler.batch(step, config.train.batch, config.model.latent_dim, paired=paired)
        if captured:
            found = captured.run(batch, step)
        else:
            with autocast:
                found = step_.run(batch, step)
        step += 1
        update_average(average, nets, min(config.train.ema_decay, (1 + step) / (3 + step)))
        if step % args.log_every == 0:
            parts_ = numbers(found)
            if not all(math.isfinite(v) for v in parts_.values()):
                raise FloatingPointError(f"Loss is not finite: step {step}. Found {parts_}; expected numbers.")
            now = time.monotonic()
            times.append((now - last) / args.log_every)
            last = now
            record = {"step": step, "seconds": round(times[-1], 5), **{k: round(v, 5) for k, v in parts_.items()}}
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            if step % (10 * args.log_every) == 0:
                print(record, flush=True)
            left = deadline - now
            if not fitted and step >= start + args.fit:
                # The schedule of learning rates ends when the time does.
                typical = float(np.median(times[-max(1, args.fit // 2 // args.log_every) :]))
                iterations = step + int(left * 0.97 / typical)
                config = with_overrides(config, [f"train.iterations={iterations}"])
                step_.config = config
                fitted = True
                print(f"{typical:.4f} s a step: {iterations} iterations", flush=True)
            if left < 0:
                break
        if step == args.stop_after:
            break
    if cuda:
        torch.cuda.synchronize()
    seconds = float(np.median(times[len(times) // 2 :])) if times else None
    told: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "steps": step,
        "iterations": config.train.iterations,
        "batch": config.train.batch,
        "crop": list(config.data.crop),
        "bf16": args.bf16,
        "graphs": captured is not None,
        "unpack_s": round(unpacked, 1),
        "step_ms": round(1000 * seconds, 2) if seconds else None,
        "slices_per_s": round(config.train.batch / seconds, 1) if seconds else None,
        "planes_per_s": round(planes_per_second(average, sampler, config, args.bf16), 1),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
    }
    if not args.no_save:
        save_pieces(args.out, step, config, nets, average, optimizers if args.optimizers else None)
    write_json(args.out / "record.json", told)
    print(json.dumps(told), flush=True)
    return told


@torch.inference_mode()
def planes_per_second(nets: Networks, sampler: DeviceSampler, config: Config, bf16: bool, rounds: int = 5) -> float:
    """Translation of whole planes by G, 32 at once on an accelerator, all that it is shown included."""
    size = 32 if sampler.device.type == "cuda" else 2
    batch = sampler.batch(0, size, config.model.latent_dim)
    codes = nets.mapper(batch.z[0], batch.y_trg), nets.mapper(batch.z[1], batch.y_src)
    times = []
    for _ in range(rounds):
        began = time.monotonic()
        with torch.autocast(sampler.device.type, torch.bfloat16, enabled=bf16):
            nets.generator(batch.x_src, *codes, aside=aside_of(batch, None))
        if sampler.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    return size / float(np.median(times))


def read_expected(file: Path, device: torch.device) -> Expected:
    """What `pack` wrote of it."""
    tensors, metadata = load_tensors(file, EXPECTED)
    return Expected(**{name: value.to(device) for name, value in tensors.items()}, ring=metadata["ring"])


def save_pieces(
    out: Path, step: int, config: Config, nets: Networks, average: Networks, optimizers: Any | None
) -> None:
    """Write the state as `piece1.safetensors` and so on: averages at 32 bits, D, and what else is needed to go on if
    optimizers are given.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in average.named():
        tensors |= with_prefix(f"average.{name}", module.state_dict())
    for name, module in nets.named():
        if optimizers is not None or name == "discriminator":
            tensors |= with_prefix(f"nets.{name}", module.state_dict())
    if optimizers is not None:
        for name, optimizer in optimizers.named():
            tensors |= with_prefix(f"optimizers.{name}", optimizer_tensors(optimizer))
    if not all_finite(tensors):
        raise FloatingPointError(
            f"Weights are not finite after step {step}. Found NaN or infinity; nothing was written."
        )
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        n = tensor.numel() * tensor.element_size()
        if size + n > PIECE_BYTES and pieces[-1]:
            pieces.append({})
            size = 0
        pieces[-1][name] = tensor
        size += n
    told = {"format": STATE, "step": step, "pieces": len(pieces), "config": config.model_dump(mode="json")}
    for i, piece in enumerate(pieces):
        save_tensors(out / f"piece{i + 1}.safetensors", piece, told | {"piece": i + 1})


def load_pieces(folder: Path) -> dict[str, Any]:
    """Put the pieces together: tensors, step and iterations."""
    files = sorted(folder.glob("piece*.safetensors"))
    tensors: dict[str, Tensor] = {}
    steps: set[tuple[int, int]] = set()
    metadata: dict[str, Any] = {}
    for file in files:
        part, metadata = load_tensors(file, STATE)
        tensors |= part
        steps.add((metadata["step"], metadata["pieces"]))
    if len(steps) != 1 or len(files) != metadata["pieces"]:
        raise ValueError(
            f"State is incomplete: {folder}. Found {len(files)} pieces of steps {sorted(steps)}; expected all pieces "
            f"of one step. Copy them again."
        )
    return {
        "tensors": tensors,
        "step": metadata["step"],
        "config": metadata["config"],
        "iterations": metadata["config"]["train"]["iterations"],
    }


def restore(tensors: dict[str, Tensor], nets: Networks, average: Networks) -> None:
    """Fill networks from a state; those it lacks start from the averages."""
    for name, module in average.named():
        module.load_state_dict(without_prefix(f"average.{name}", tensors))
    for name, module in nets.named():
        own = without_prefix(f"nets.{name}", tensors)
        module.load_state_dict(own or without_prefix(f"average.{name}", tensors))


def finish(args: argparse.Namespace) -> None:
    """Score on selection subjects and export `last.safetensors` as `ummgat train` does."""
    from ummgat.core.draw import load_draw
    from ummgat.core.study import load_cohort
    from ummgat.model.weights import load_model
    from ummgat.train.atlas_learning import training_atlas
    from ummgat.train.loop import _validate
    from ummgat.train.pack import save_packed
    from ummgat.train.relation import relations
    from ummgat.train.slices import index_volumes, selection_volumes
    from ummgat.train.state import TrainState
    from ummgat.train.validate import build_probe

    state = load_pieces(args.there)
    config, draw = Config.model_validate(state["config"]), load_draw(args.draw)
    nets = build_networks(config.model, len(draw.table), config.train.seed)
    average = moving_average_of(nets)
    restore(state["tensors"], nets, average)
    studies = load_cohort(args.data)
    volumes = index_volumes(studies, draw, config.data)
    atlas = training_atlas(volumes, len(draw.table), args.atlas or args.packed / "atlas.safetensors").atlas
    chosen = [study for study in studies if study.subject in draw.selection]
    seen = selection_volumes(chosen, draw.table, config.data)
    probe = build_probe(volumes, seen, len(draw.table), config, atlas)
    args.out.mkdir(parents=True, exist_ok=True)
    whole = TrainState(nets, average, build_optimizers(nets, config.train), state["step"], None)
    found = relations(volumes, len(draw.table))
    _validate(args.out, whole, config, draw, probe, volumes, found, atlas, chosen, None, last=True)
    assert nets.discriminator is not None
    save_packed(args.out / "packed.safetensors", load_model(args.out / "last.safetensors"), nets.discriminator)
    print(args.out / "packed.safetensors")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pack")
    one.add_argument("preset")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--draw", type=Path, required=True)
    one.add_argument("--atlas", type=Path)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--parts", type=int, default=1)
    one.add_argument("--quality", type=int, default=97)
    one.add_argument("--set", action="append", default=[])
    one.set_defaults(call=pack)
    two = commands.add_parser("run")
    two.add_argument("--packed", type=Path, required=True)
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--start", type=Path, help="folder of another run whose averages to start from")
    two.add_argument("--preset", help="another config than the packed one, to time its steps")
    two.add_argument("--device", default="cuda")
    two.add_argument("--minutes", type=float)
    two.add_argument("--stop-after", type=int, help="stop at this step, to go on later")
    two.add_argument("--fit", type=int, default=0, help="fit the iterations to the minutes after so many steps")
    two.add_argument("--bf16", action="store_true")
    two.add_argument("--eager", action="store_true", help="no graphs")
    two.add_argument("--optimizers", action="store_true", help="save what an exact continuation needs")
    two.add_argument("--no-save", action="store_true")
    two.add_argument("--threads", type=int, default=1)
    two.add_argument("--log-every", type=int, default=20)
    two.add_argument("--set", action="append", default=[])
    two.set_defaults(call=run)
    three = commands.add_parser("finish")
    three.add_argument("there", type=Path)
    three.add_argument("--packed", type=Path, required=True)
    three.add_argument("--data", type=Path, required=True)
    three.add_argument("--draw", type=Path, required=True)
    three.add_argument("--atlas", type=Path)
    three.add_argument("--out", type=Path, required=True)
    three.set_defaults(call=finish)
    args = parser.parse_args(argv)
    args.call(args)


if __name__ == "__main__":
    main()
