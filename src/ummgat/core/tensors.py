"""Safetensors files with JSON metadata: written atomically, read without unpickling, damage reported clearly."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from ummgat.core.files import atomic_path, explained_full_disk

_SIZE_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and metadata (each value as JSON). The same content gives the same bytes, and so the same hash."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = _ordered(save(contiguous, {key: json.dumps(value) for key, value in metadata.items()}))
    # Written by Python: safetensors' own writer does not say that a disk is full in a way one could react to.
    with explained_full_disk(path), atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its metadata by name: the library writes them in another order each time."""
    size = int.from_bytes(data[:_SIZE_BYTES], "little")
    header = json.loads(data[_SIZE_BYTES : _SIZE_BYTES + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (
        -len(text) % _SIZE_BYTES
    )  # voxels and weights begin at a multiple of eight bytes, as in every such file
    return len(text).to_bytes(_SIZE_BYTES, "little") + text + data[_SIZE_BYTES + size :]


def load_tensors(path: Path, *kinds: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `save_tensors` wrote.

    Parameters
    ----------
    path : Path
    *kinds : str
        The `format` its metadata must state, e.g. "ummgat-model-1"; one of several, the present one first.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, cut short, damaged, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Weights are missing: {path}. Found no file; expected a {kinds[0]} file. Check the path."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Weights file is damaged: {path}. Found {error}; expected a complete safetensors file. "
            "It was probably cut short: copy it again."
        ) from error
    if metadata.get("format") not in kinds:
        raise ValueError(
            f"Weights file is of another kind: {path}. Found format {metadata.get('format')!r}; expected "
            f"{' or '.join(kinds)}. Choose the file that this command writes or asks for."
        )
    return tensors, metadata


def load_finite(path: Path, *kinds: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`load_tensors` of weights that are to be used; ValueError if one of them is not a number."""
    tensors, metadata = load_tensors(path, *kinds)
    if not all_finite(tensors):
        raise ValueError(f"Weights are not finite: {path}. Found NaN or infinity; expected numbers. Use another file.")
    return tensors, metadata


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with `prefix.` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` that start with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers: `<index of the parameter>.<name>`."""
    tensors: dict[str, Tensor] = {}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= with_prefix(str(i), values)
    return tensors


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    layout = optimizer.state_dict()
    indices = sorted({int(key.split(".")[0]) for key in tensors})
    layout["state"] = {i: without_prefix(str(i), tensors) for i in indices}
    optimizer.load_state_dict(layout)


def file_hash(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256; what sidecars cite."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """True if no floating-point tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point())
