"""What operators cost, counted as they run, and what this machine gives at best. The other scripts here share it."""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

# ---------------------------------------------------------------- what operators cost


COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


class Call(NamedTuple):
    """One call of one operator."""

    name: str
    flops: int
    """Of matrix products, convolutions and attention; 0 for all else."""
    bytes: int
    """Of operands and results, see `bytes_of`."""
    dtype: torch.dtype
    """The narrowest floating type among the operands, float32 without any."""
    seconds: float


class CountOperators(TorchDispatchMode):
    """List every operator that runs inside, backward included, with its cost and its time.

    `FlopCounterMode` counts FLOPs alone, per module, and its bookkeeping fails on the double backward of R1. Other
    threads are not seen: let the work run on one.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.device = device or torch.device("cpu")
        self.calls: list[Call] = []

    @property
    def flops(self) -> int:
        """Of all calls so far."""
        return sum(call.flops for call in self.calls)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count it."""
        kwargs = kwargs or {}
        # Without autograd composites such as `linear` arrive whole, and have no formula: take them apart first. By the
        # kernel that would have run; `func.decompose` prefers one in Python, whose bilinear interpolation is 50
        # operators.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE):
            with self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        synchronize(self.device)
        began = time.perf_counter()
        out = func(*args, **kwargs)
        synchronize(self.device)
        seconds = time.perf_counter() - began
        dtypes = [t.dtype for t in _tensors((args, kwargs)) if t.is_floating_point()]
        self.calls.append(
            Call(
                func._overloadpacket.__name__,
                flops_of(func, args, kwargs, out),
                bytes_of(func, args, kwargs, out),
                min(dtypes, key=lambda dtype: dtype.itemsize, default=torch.float32),
                seconds,
            )
        )
        return out


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """PyTorch's own count where it is right, two FLOPs per multiplication; products with padding are counted as
    well.
    """
    name = func._overloadpacket.__name__
    if name == "_scaled_dot_product_flash_attention_for_cpu":  # the CPU kernel is not in the registry
        return sdpa_flop_count(*(t.shape for t in args[:3]))
    if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return sdpa_backward_flop_count(*(t.shape for t in args[:4]))
    if name == "convolution_backward":
        # The registry's formula takes the weight gradient of a grouped convolution for that of a full one. Each
        # gradient asked for costs what the forward did.
        grad_out, x, weight = args[:3]
        transposed, wanted = args[7], args[10]
        return sum(wanted[:2]) * conv_flop_count(x.shape, weight.shape, grad_out.shape, transposed)
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=out)


ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}

OVERWRITES = {"copy_", "fill_", "zero_"}
"""In-place operators that do not read what they replace."""


def bytes_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Bytes that an operator must read and write: its operands, and its results or what it changes in place.

    Views, allocations and questions about metadata move nothing. Of an expanded tensor only the elements that exist
    count. A gather counts with all it could read, so for it this is more than the least.
    """
    name = func._overloadpacket.__name__
    inputs = _tensors((args, kwargs))
    storages = {t.untyped_storage().data_ptr() for t in inputs}
    new = [t for t in _tensors(out) if t.untyped_storage().data_ptr() not in storages]
    changed = _tensors(_changed(func, args, kwargs))
    if name in ALLOCATIONS or (not new and not changed):
        return 0
    overwritten = {id(t) for t in changed} if name in OVERWRITES else set()
    read = [t for t in inputs if id(t) not in overwritten]
    return sum(_size(t) for t in (*read, *new, *changed))


def _changed(func: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """The arguments that an operator writes to, by its schema."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[i] if i < len(args) else kwargs.get(argument.name)


def _tensors(tree: Any) -> list[Tensor]:
    """Every tensor in arguments or results, once; those zeros that autograd keeps without storage left out."""
    leaves = tree_leaves(list(tree) if isinstance(tree, Iterator) else tree)
    return list({id(t): t for t in leaves if isinstance(t, Tensor) and not t._is_zerotensor()}.values())


def _size(t: Tensor) -> int:
    return t.itemsize * math.prod(n for n, stride in zip(t.shape, t.stride(), strict=True) if stride or not n)


# ---------------------------------------------------------------- what the machine gives


class Rates(NamedTuple):
    """The best this machine was seen to do, with the threads it was asked with."""

    products: dict[torch.dtype, float]
    """FLOP/s of matrix products."""
    copies: dict[int, float]
    """Bytes read and written by a copy → bytes/s; small ones stay in a cache."""

    def attainable(self, call: Call, cached: bool = True) -> float:
        """Seconds that a call takes at best: its arithmetic or its traffic, whichever is longer.

        `cached` takes operands to lie in the fastest memory that holds them all; else all come from the slowest.
        """
        peak = self.products.get(call.dtype, self.products[torch.float32])
        sizes = [size for size in self.copies if cached and size >= call.bytes] or [max(self.copies)]
        return max(call.flops / peak, call.bytes / max(self.copies[size] for size in sizes))

    def best_of(self, other: "Rates") -> "Rates":
        """The better of two measurements, rate by rate."""
        return Rates(
            {dtype: max(rate, other.products[dtype]) for dtype, rate in self.products.items()},
            {size: max(rate, other.copies[size]) for size, rate in self.copies.items()},
        )


def measure_rates(device: torch.device, seconds: float = 1.0) -> Rates:
    """Measure, `seconds` for each kind."""
    dtypes = (torch.float32, torch.bfloat16)
    return Rates({dtype: matmul_rate(device, dtype, seconds) for dtype in dtypes}, copy_rates(device, seconds))


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """Best matrix-product rate over sizes that fit the caches, FLOP/s."""
    best = 0.0
    for side in (512, 1024, 2048):
        if best and 2 * side**3 / best > seconds:
            break  # no units for this type: a larger product would only take longer
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        a @ b
        synchronize(device)
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 3:
            a @ b
            synchronize(device)
            n += 1
        best = max(best, 2 * side**3 * n / (time.perf_counter() - began))
    return best


def copy_rates(device: torch.device, seconds: float = 1.0) -> dict[int, float]:
    """Best rate of copies of several sizes, bytes read and written per second."""
    sizes = [2**power for power in range(18, 29, 2)]  # 256 KiB to 256 MiB
    rates = {}
    for size in sizes:
        source = torch.ones(size // 8, device=device)
        target = torch.empty_like(source)
        repeats = max(1, 2**24 // size)  # so that a small copy is timed as exactly as a large one
        target.copy_(source)
        synchronize(device)
        best, began = math.inf, time.perf_counter()
        while math.isinf(best) or time.perf_counter() - began < seconds / len(sizes):
            start = time.perf_counter()
            for _ in range(repeats):
                target.copy_(source)
            synchronize(device)
            best = min(best, (time.perf_counter() - start) / repeats)
        rates[size] = size / best
    return rates


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
