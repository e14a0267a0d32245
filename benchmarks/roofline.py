"""How near training and completion come to what this machine could do: attainable seconds over measured ones.

Usage: python benchmarks/roofline.py [--preset small] [--set model.generator=attention_unet] [--rounds 3] [--threads 0]
                                     [--planes 0] [--device cpu] [--json FILE]

Work is one cycle of the default training step, and one volume completed as the product does it. Attainable is the sum
over all calls of operators of max(FLOPs / rate of matrix products, bytes / rate of copies), both rates measured in the
same run (Williams et al. 2009, "roofline"). Operands count as lying in the fastest cache that holds them, and
arithmetic outside of matrix products, convolutions and attention as free: no program with these operators can be
faster, and some kernels cannot be as fast. A ratio of 1 would mean that only other operators, or fewer, could help.

Seconds per operator come from one run in which every call is timed alone; what they leave of the seconds measured
without a clock inside is Python, autograd and the memory allocator. A volume is counted on one thread, whatever
--threads says. Rates are the best seen, so other work on the machine lowers the ratio: seconds of CPU beside the
measured ones tell.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from complete_volume import ellipsoid_brain
from counting import Call, CountOperators, Rates, measure_rates, synchronize
from options import common_parser, parsed
from train_step import build_step, one_cycle, synthetic_batch
from ummgat.core.config import Config, load_config
from ummgat.model.networks import build_networks
from ummgat.model.translate import translate_volume
from ummgat.train.loop import to_tensors
from ummgat.train.overrides import with_overrides
from ummgat.train.slices import trimmed

N_DOMAINS = 6

ROWS = 12
"""Operators shown of each kind of work; --json has all."""

Work = Callable[[], None]


def training(config: Config, device: torch.device) -> Work:
    """One cycle of the default schedule."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"schedule": "alternating"})})
    nets = build_networks(config.model, N_DOMAINS, seed=0).to(device)
    step = build_step(nets, config, device)
    batch = to_tensors(trimmed(synthetic_batch(config, N_DOMAINS), nets.generator.unit), device)

    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16-mixed"):
            for i in one_cycle(config.train):
                step.run(batch, i)

    return work


def completion(config: Config, device: torch.device, planes: int) -> Work:
    """One volume, or the `planes` in its middle."""
    generator = build_networks(config.model, N_DOMAINS, seed=0).to(device).generator.eval()
    codes = torch.randn((2, config.model.code_dim), generator=torch.Generator().manual_seed(0)).to(device)
    volume = ellipsoid_brain()
    if planes:
        first = (len(volume) - planes) // 2
        volume = volume[first : first + planes]

    def work() -> None:
        translate_volume(generator, volume, *codes)

    return work


class Row(NamedTuple):
    """All calls of one operator."""

    operator: str
    calls: int
    gflop: float
    gigabytes: float
    attainable: float
    """Seconds."""
    uncached: float
    """Seconds attainable if every operand came from the slowest memory."""
    measured: float
    """Seconds."""


def rows_of(calls: list[Call], rates: Rates) -> list[Row]:
    """Sum calls by operator, the longest attainable time first."""
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        by_name.setdefault(call.name, []).append(call)
    rows = [
        Row(
            name,
            len(own),
            sum(call.flops for call in own) / 1e9,
            sum(call.bytes for call in own) / 1e9,
            sum(rates.attainable(call) for call in own),
            sum(rates.attainable(call, cached=False) for call in own),
            sum(call.seconds for call in own),
        )
        for name, own in by_name.items()
    ]
    return sorted(rows, key=lambda row: row.attainable, reverse=True)


def counted(work: Work, device: torch.device, threads: int) -> list[Call]:
    """Every call of one run, after a first one that warms up."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        work()
        with CountOperators(device) as counter:
            work()
    finally:
        torch.set_num_threads(before)
    return counter.calls


def show(name: str, rows: list[Row], seconds: float, cpu: float) -> None:
    """Print the table of one kind of work, and which operators stay furthest from it."""
    attainable, measured = (sum(getattr(row, key) for row in rows) for key in ("attainable", "measured"))
    print(
        f"\n{name}: {seconds:.2f} s measured ({cpu:.2f} s of CPU), {attainable:.2f} s attainable "
        f"({sum(row.uncached for row in rows):.2f} s if nothing were cached); operators took {measured:.2f} s, clocked "
        f"one by one"
    )
    print(f"{'operator':34} {'calls':>7} {'GFLOP':>9} {'GB':>8} {'attainable s':>13} {'measured s':>11} {'ratio':>6}")
    lost = sorted(rows, key=lambda row: row.attainable - row.measured)[:6]
    rest = rows[ROWS:]
    if rest:
        rows = [
            *rows[:ROWS],
            Row(f"{len(rest)} others", *(sum(column) for column in list(zip(*rest, strict=True))[1:])),
        ]
    for row in rows:
        ratio = f"{row.attainable / row.measured:6.2f}" if row.attainable else f"{'-':>6}"
        print(
            f"{row.operator:34} {row.calls:7} {row.gflop:9.2f} {row.gigabytes:8.2f} {row.attainable:13.3f} "
            f"{row.measured:11.3f} {ratio}"
        )
    print("furthest off: " + ", ".join(f"{row.operator} {row.measured - row.attainable:.2f} s" for row in lost))


def main() -> None:
    """Measure and print."""
    parser = common_parser(__doc__, 3, "cycles and volumes to time")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="may be given again")
    parser.add_argument("--planes", type=int, default=0, help="complete only so many in the middle; 0 = all")
    arguments = parsed(parser)
    device, threads = torch.device(arguments.device), torch.get_num_threads()
    config = with_overrides(load_config(arguments.preset), arguments.set)
    works = {"training": training(config, device), "completion": completion(config, device, arguments.planes)}
    # A volume is shared by Python threads, which the counter would not see.
    calls = {
        name: counted(work, device, 1 if name == "completion" and device.type == "cpu" else threads)
        for name, work in works.items()
    }
    rates: Rates | None = None
    seconds: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        # In turn, so that a drift of the machine's speed meets all alike.
        for name, work in works.items():
            synchronize(device)
            began, cpu_began = time.perf_counter(), time.process_time()
            work()
            synchronize(device)
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - cpu_began)
        now = measure_rates(device)
        rates = now if rates is None else rates.best_of(now)
    if rates is None:
        raise SystemExit(f"Nothing was measured: --rounds. Found {arguments.rounds}; expected 1 or more. Raise it.")
    fp32, bf16 = (rates.products[dtype] / 1e9 for dtype in (torch.float32, torch.bfloat16))
    copies = [rate / 1e9 for rate in rates.copies.values()]
    settings = " ".join([f"preset {arguments.preset}", *arguments.set])
    print(
        f"{settings}, {device}, {threads} threads: matrix products {fp32:.1f} GFLOP/s (bf16 {bf16:.1f}), "
        f"copies {copies[-1]:.1f} GB/s from memory, up to {max(copies):.1f} from a cache"
    )
    ratios, found = {}, {}
    for name in works:
        rows = rows_of(calls[name], rates)
        median = statistics.median(seconds[name])
        show(name, rows, median, statistics.median(cpu[name]))
        ratios[name] = sum(row.attainable for row in rows) / median
        found[name] = {
            "seconds": seconds[name],
            "cpu_seconds": cpu[name],
            "ratio": ratios[name],
            "operators": [row._asdict() for row in rows],
        }
    if arguments.json:
        machine = {
            "matmul_gflops": fp32,
            "matmul_bf16_gflops": bf16,
            "copy_gigabytes_per_second": dict(zip(rates.copies, copies, strict=True)),
        }
        record = {"settings": settings, "device": str(device), "threads": threads, "planes": arguments.planes}
        arguments.json.write_text(json.dumps(record | machine | found, indent=1) + "\n", encoding="utf-8")
    print(
        f"\nheadline: achieved/attainable training {ratios['training']:.2f}, completion {ratios['completion']:.2f} "
        f"({settings}, {threads} threads)"
    )


if __name__ == "__main__":
    main()
