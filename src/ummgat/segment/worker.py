"""The process in which a foreign model runs. Started by path, with any Python that has the model's own packages.

It imports nothing of ummgat and is one file, because a user's nnU-Net environment does not have ummgat. It reads frames
from stdin and answers on stdout; whatever the model prints goes to stderr instead. Frames are JSON and `.npy`: nothing
is unpickled on the way. The first request opens a model, each later one segments; see `process` for the other end.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FRAME = struct.Struct(">QQ")
"""Length of the JSON and of the array, 0 for none."""

MOST_TEXT = 1 << 24
MOST_ARRAY = 1 << 36
"""Bytes beyond which a frame is taken for garbage."""

Model = Callable[[Any, "dict[str, Any]"], Any]
"""(float32 (channel, axis, axis, axis), request) → whole numbers (axis, axis, axis), or 0 and 1 with a channel per
region."""


def send(file: Any, text: dict[str, Any], array: Any = None) -> None:
    """Write one frame to an unbuffered binary file."""
    data = io.BytesIO()
    if array is not None:
        np.save(data, array, allow_pickle=False)
    words, numbers = json.dumps(text).encode(), data.getvalue()
    rest = memoryview(FRAME.pack(len(words), len(numbers)) + words + numbers)
    while rest:
        rest = rest[file.write(rest) :]


def receive(file: Any) -> tuple[dict[str, Any], Any]:
    """Read one frame: the JSON, and the array or None. EOFError at the end, ValueError if it is no frame."""
    n_words, n_numbers = FRAME.unpack(_exactly(file, FRAME.size))
    if n_words > MOST_TEXT or n_numbers > MOST_ARRAY:
        raise ValueError("what is no frame")
    text = json.loads(_exactly(file, n_words))
    if not isinstance(text, dict):
        raise ValueError("what is no frame")  # noqa: TRY004  (garbage, whatever its type)
    numbers = _exactly(file, n_numbers)
    return text, np.load(io.BytesIO(numbers), allow_pickle=False) if numbers else None


def _exactly(file: Any, n: int) -> bytes:
    parts = []
    while n:
        part = file.read(min(n, 1 << 24))
        if not part:
            raise EOFError
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


# ---------------------------------------------------------------- models


def open_nnunet(path: str) -> tuple[Model, dict[str, Any]]:
    """Open a trained nnU-Net v2 folder, all its folds. It brings its own normalisation and voxel size."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise LookupError(f"no nnunetv2 in {sys.executable}; --segmenter-python names the Python that has it")
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=_device(torch), verbose=False, verbose_preprocessing=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(path, None, "checkpoint_final.pth")

    def segment(images: Any, request: dict[str, Any]) -> Any:
        spacing = [float(s) for s in request["spacing_mm"]]
        return np.asarray(predictor.predict_single_npy_array(images, {"spacing": spacing}, None, None, False))

    return segment, {}


def open_bundle(path: str) -> tuple[Model, dict[str, Any]]:
    """Open a MONAI bundle: `network_def` with its weights, and `inferer` if there is one."""
    import torch
    from monai.bundle.config_parser import ConfigParser
    from monai.inferers.inferer import SimpleInferer, SlidingWindowInferer

    root = Path(path)
    configs = [root / "configs" / f"inference.{suffix}" for suffix in ("json", "yaml", "yml")]
    config = next((c for c in configs if c.is_file()), None)
    if config is None:
        raise FileNotFoundError(f"no {configs[0]}, which says how the network is built")
    sys.path.insert(0, path)  # for code of its own, as `scripts`
    parser = ConfigParser()
    parser.read_config(str(config))
    device = _device(torch)
    parser["bundle_root"], parser["device"] = path, device
    about = {name: parser.get(name) for name in ("preprocessing", "postprocessing")}
    if parser.get("imports"):
        parser.get_parsed_content("imports")
    weights, script = root / "models" / "model.pt", root / "models" / "model.ts"
    if weights.is_file():
        network = parser.get_parsed_content("network_def")
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = next((state[name] for name in ("model", "state_dict") if name in state), state)
        network.load_state_dict(state)
    elif script.is_file():
        network = torch.jit.load(script, map_location="cpu")
    else:
        raise FileNotFoundError(f"neither {weights} nor {script}")
    network = network.to(device).eval()
    inferer = parser.get_parsed_content("inferer") if parser.get("inferer") else None

    def segment(images: Any, request: dict[str, Any]) -> Any:
        x = torch.from_numpy(_padded(images, request["multiple"]))[None].to(device)
        run = inferer
        if run is None:
            run = SlidingWindowInferer(request["window"], overlap=0.5) if request["window"] else SimpleInferer()
        with torch.inference_mode():
            out = run(x, network)
        out = out[0] if isinstance(out, (tuple, list)) else out
        return _decided(_cut(out[0].float().cpu().numpy(), images.shape), request)

    return segment, about


def open_onnx(path: str) -> tuple[Model, dict[str, Any]]:
    """Open an ONNX file: (1, channel, plane, row, column) → (1, output, …), or plane by plane (n, channel, row,
    column).
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise LookupError(f"no onnxruntime in {sys.executable}; pip install 'ummgat[onnx]' brings it")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if os.environ.get("OMP_NUM_THREADS"):
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    (given,) = session.get_inputs()
    sides = given.shape[2:]
    if len(sides) not in (2, 3):
        raise ValueError(f"input of shape {given.shape}")
    about = {"channels": given.shape[1] if isinstance(given.shape[1], int) else None}
    about["ummgat"] = session.get_modelmeta().custom_metadata_map.get("ummgat")
    window = [n if isinstance(n, int) else None for n in sides]
    batch = given.shape[0] if isinstance(given.shape[0], int) else 16

    def network(x: Any) -> Any:
        parts = [session.run(None, {given.name: part})[0] for part in _batches(x, batch)]
        return np.concatenate(parts)[: len(x)]

    def segment(images: Any, request: dict[str, Any]) -> Any:
        flat = len(sides) == 2
        whole = _padded(images, [1, *request["multiple"][1:]] if flat else request["multiple"])
        x = np.ascontiguousarray(whole.transpose(1, 0, 2, 3)) if flat else whole[None]
        out = _in_windows(x, window, batch, network) if any(window) else network(x)
        return _decided(_cut(out.transpose(1, 0, 2, 3) if flat else out[0], images.shape), request)

    return segment, about


OPENERS = {"nnunet": open_nnunet, "bundle": open_bundle, "onnx": open_onnx}


def _in_windows(x: Any, window: list[int | None], batch: int, network: Callable[[Any], Any]) -> Any:
    """Overlapping windows of a fixed size; a side that is not fixed is given whole."""
    import torch
    from monai.inferers.inferer import SlidingWindowInferer

    size = [fixed or n for fixed, n in zip(window, x.shape[2:], strict=True)]
    run = SlidingWindowInferer(size, sw_batch_size=batch, overlap=0.5)
    return np.asarray(run(torch.from_numpy(x), lambda part: torch.from_numpy(network(part.numpy()))))


def _batches(x: Any, n: int) -> Any:
    """Parts of exactly n, the last one filled up with zeros."""
    for start in range(0, len(x), n):
        part = x[start : start + n]
        yield np.concatenate([part, np.zeros((n - len(part), *part.shape[1:]), part.dtype)])


def _device(torch: Any) -> Any:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _padded(images: Any, multiple: list[int]) -> Any:
    """Zeros at the far ends until each side is a multiple."""
    return np.pad(images, [(0, 0), *((0, -n % k) for n, k in zip(images.shape[1:], multiple, strict=True))])


def _cut(out: Any, shape: tuple[int, ...]) -> Any:
    """Undo `_padded`; an answer that is too small stays so, and is refused at the other end."""
    return out[(slice(None), *(slice(n) for n in shape[1:]))]


def _decided(out: Any, request: dict[str, Any]) -> Any:
    """Numbers per channel → a label each, or 0 and 1 per region if there is a threshold."""
    if len(out) != request["outputs"]:
        raise ValueError(f"{len(out)} outputs where {request['outputs']} are named")
    if not np.isfinite(out).all():
        raise ValueError("an answer that is not finite")
    if request["threshold"] is not None:
        return (out > request["threshold"]).astype(np.uint8)
    return out.argmax(0).astype(np.int16)


# ---------------------------------------------------------------- the process


def serve(source: Any, sink: Any) -> None:
    """Open the model that the first frame names, then answer every other."""
    model: Model | None = None
    while True:
        try:
            request, images = receive(source)
        except EOFError:
            return
        try:
            if model is None:
                model, about = OPENERS[request["kind"]](request["path"])
                send(sink, {"about": about})
            else:
                send(sink, {}, model(images, request))
        except Exception as error:  # noqa: BLE001  (a foreign model may raise anything, and the parent must hear of it)
            traceback.print_exc()
            send(sink, {"error": f"{type(error).__name__}: {error}"[:2000]})


def _end_with(parent: int) -> None:
    """End this process and its children when the parent is gone, even a killed one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Take stdin and stdout away from the model, and serve."""
    own = str(Path(__file__).resolve().parent)
    sys.path[:] = [p for p in sys.path if str(Path(p).resolve()) != own]  # or `import train` would find ours
    source: BinaryIO = os.fdopen(os.dup(0), "rb", buffering=0)
    sink: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if os.name != "nt":  # where the id of a dead parent does not change
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    serve(source, sink)


if __name__ == "__main__":
    main()
