"""Read what a foreign model says of itself into a `Meaning`: plain JSON, nothing of it is run."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ummgat.core.files import read_json
from ummgat.segment.meanings import INSIDE, Meaning, channel_meaning, name_of, numbered, sequences_of

_NO_INTENSITY = (
    "LoadImage", "EnsureChannelFirst", "AsChannelFirst", "AddChannel", "EnsureType", "ToTensor", "ToDevice",
    "CastToType", "CropForeground",
)  # fmt: skip
"""MONAI transforms that leave intensities alone and need no undoing of what we hand over."""


class Sidecar(BaseModel):
    """What an ONNX file must say: its metadata `ummgat`, or `<file>.json` beside it, which goes first."""

    model_config = ConfigDict(extra="forbid")

    sequences: list[str] = Field(min_length=1)
    """In the order of the channels."""
    outputs: list[str] = Field(min_length=1)
    """background and labels, or regions, in the order of the output's channels."""
    threshold: float | None = None
    """For regions: 0 if the output is before the sigmoid, 0.5 after it."""
    spacing_mm: float = Field(gt=0)
    normalisation: Literal["none", "unit", "zscore"]
    orientation: str = "RAS"
    multiple: int = Field(1, ge=1)


def describe_nnunet(
    path: Path, about: Mapping[str, Any], given: Sequence[str] | None, orientation: str | None
) -> Meaning:
    """Meaning of a trained nnU-Net v2 folder, from dataset.json and plans.json."""
    file = path / "dataset.json"
    dataset = _mapping(read_json(file), str(file))
    channels = _mapping(dataset.get("channel_names"), f"channel_names in {file}")
    names = [str(channels[key]) for key in sorted(channels, key=int)]
    labels = {str(k): v for k, v in _mapping(dataset.get("labels"), f"labels in {file}").items() if k != "ignore"}
    if any(isinstance(v, list) and len(v) > 1 for v in labels.values()):
        meant = _nested([k for k, v in labels.items() if v not in (0, [0])], dataset.get("regions_class_order"), file)
    else:
        meant = numbered({int(v[0] if isinstance(v, list) else v): k for k, v in labels.items()}, f"labels in {file}")
    # Of nnU-Net's readers only this one turns what it reads.
    reader = _mapping(read_json(path / "plans.json"), "plans.json").get("image_reader_writer")
    if reader == "NibabelIOWithReorient":
        orientation = "RAS"
    return Meaning(
        sequences_of(names, given, f"channel_names in {file}"),
        meant,
        orientation=_codes(orientation or "RAS", str(path)),
    )


def _nested(names: Sequence[str], order: Any, file: Path) -> tuple[tuple[int, str], ...]:
    """Numbers that a region-based nnU-Net writes: each region in turn over those before it."""
    regions = [name_of(name, f"labels in {file}") for name in names]
    if regions not in (list(INSIDE), ["WT"]) or not isinstance(order, list) or len(order) != len(regions):
        raise ValueError(
            f"Regions are not nested: labels in {file}. Found {', '.join(names)} with regions_class_order {order}; "
            f"expected whole tumor, tumor core, enhancing tumor in this order, with a number each. Such a model cannot "
            f"be evaluated."
        )
    kept = [INSIDE[region] if len(regions) > 1 else region for region in regions]
    return ((0, "background"), *zip(map(int, order), kept, strict=True))


def describe_bundle(
    path: Path, about: Mapping[str, Any], given: Sequence[str] | None, orientation: str | None
) -> Meaning:
    """Meaning of a MONAI bundle, from metadata.json, and from pre- and postprocessing of its inference config."""
    file = path / "configs" / "metadata.json"
    formats = _mapping(
        _mapping(read_json(file), str(file)).get("network_data_format"), f"network_data_format in {file}"
    )
    key, source = _only(formats.get("inputs"), f"inputs in {file}")
    _, result = _only(formats.get("outputs"), f"outputs in {file}")
    found = channel_meaning(_channels(result, f"outputs in {file}"), f"outputs in {file}")
    before = _transforms(about.get("preprocessing"), key, f"preprocessing of {path}")
    shape = source.get("spatial_shape") or []
    if len(shape) != 3:
        raise ValueError(
            f"Bundle is not three-dimensional: {file}. Found spatial_shape {shape}; expected three sides. Such a model "
            f"cannot be evaluated."
        )
    whole = all(isinstance(side, int) for side in shape)
    steps = [re.fullmatch(r"(\d+) ?\* ?n", str(side)) for side in shape]
    a, b, c = (int(step[1]) if step else 1 for step in steps)
    codes, spacing, normalisation = _preprocessing(before, f"preprocessing of {path}")
    return Meaning(
        sequences_of(_channels(source, f"inputs in {file}"), given, f"inputs in {file}"),
        **found,
        threshold=_threshold(about.get("postprocessing"), path) if "regions" in found else None,
        normalisation=normalisation,
        axes="xyz",
        orientation=_codes(codes or orientation or "RAS", str(path)),
        spacing_mm=spacing,
        multiple=(a, b, c),
        window=(shape[0], shape[1], shape[2]) if whole else None,
    )


def _preprocessing(
    steps: Sequence[tuple[str, Mapping[str, Any]]], where: str
) -> tuple[str | None, float | None, Literal["none", "zscore"]]:
    """Orientation, voxel size and normalisation that the transforms ask for; ValueError for what is not known."""
    codes, spacing = None, None
    normalisation: Literal["none", "zscore"] = "none"
    for name, options in steps:
        pixdim = options.get("pixdim")
        if name == "Orientation" and isinstance(options.get("axcodes"), str):
            codes = options["axcodes"]
        elif name == "Spacing" and isinstance(pixdim, list) and len(pixdim) == 3 and len(set(pixdim)) == 1:
            spacing = float(pixdim[0])
        elif name == "NormalizeIntensity" and options.get("nonzero") and options.get("channel_wise"):
            normalisation = "zscore"
        elif name not in _NO_INTENSITY:
            raise ValueError(
                f"Transform is not known: {where}. Found {name} {dict(options)}; expected Orientation with axcodes, "
                f"Spacing with one pixdim, NormalizeIntensity with nonzero and channel_wise, or none. Export the "
                f"network to ONNX, and say there what it needs."
            )
    return codes, spacing, normalisation


def _threshold(postprocessing: Any, path: Path) -> float:
    """Above what a raw output says that a region is there."""
    steps = dict(_transforms(postprocessing, None, f"postprocessing of {path}"))
    cut = steps.get("AsDiscrete", {}).get("threshold")
    sigmoid = bool(steps.get("Activations", {}).get("sigmoid"))
    cut = 0.5 if cut is None and sigmoid else cut
    if not isinstance(cut, float | int) or isinstance(cut, bool) or not 0 < cut < 1:
        raise ValueError(
            f"Regions have no threshold: postprocessing of {path}. Found {', '.join(steps) or 'no transform'}; "
            f"expected Activations with sigmoid, or AsDiscrete with a threshold between 0 and 1. Add what belongs to "
            f"the network."
        )
    return math.log(cut / (1 - cut)) if sigmoid else float(cut)


def _transforms(value: Any, key: str | None, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Names, without the d of dictionary transforms, and options; those for other keys than `key` are left out."""
    listed = value.get("transforms") if isinstance(value, dict) else value
    if listed is None:
        listed = []
    if not isinstance(listed, list) or not all(isinstance(t, dict) and "_target_" in t for t in listed):
        raise ValueError(f"Transforms cannot be read: {where}. Found {value}; expected a list of them. Write them out.")
    found = []
    for step in listed:
        keys = step.get("keys")
        named = [keys] if isinstance(keys, str) else keys or []
        elsewhere = key is not None and named and not any(k == key or str(k).startswith("@") for k in named)
        if not step.get("_disabled_") and not elsewhere:
            found.append((re.sub(r"(d|D|Dict)$", "", str(step["_target_"]).rpartition(".")[2]), step))
    return found


def _channels(value: Mapping[str, Any], where: str) -> list[str]:
    """Names of `channel_def`, as many as `num_channels`."""
    channels = _mapping(value.get("channel_def"), f"channel_def of {where}")
    names = [str(channels[key]) for key in sorted(channels, key=int)]
    if len(names) != value.get("num_channels", len(names)):
        raise ValueError(
            f"Channels are not all named: channel_def of {where}. Found {', '.join(names)}; expected "
            f"{value['num_channels']}. Name each."
        )
    return names


def describe_onnx(
    path: Path, about: Mapping[str, Any], given: Sequence[str] | None, orientation: str | None
) -> Meaning:
    """Meaning of an ONNX file, from `<file>.json` beside it, or else from its metadata `ummgat`."""
    beside = path.with_name(path.name + ".json")
    where = str(beside) if beside.is_file() else f"metadata `ummgat` of {path}"
    try:
        value = read_json(beside) if beside.is_file() else json.loads(about.get("ummgat") or "null")
        said = Sidecar.model_validate(value)
    except (ValidationError, json.JSONDecodeError) as error:
        raise ValueError(
            f"ONNX file does not say what it needs: {where}. Found {error}; expected JSON with sequences, outputs, "
            f"spacing_mm and normalisation. Write {beside.name} beside it, as docs/how-to/use-your-own-segmenter.md "
            f"shows."
        ) from error
    found = channel_meaning(said.outputs, f"outputs in {where}")
    if ("regions" in found) != (said.threshold is not None):
        raise ValueError(
            f"Threshold does not fit the outputs: {where}. Found {said.threshold}; expected a number with regions, "
            f"none with labels. Correct it."
        )
    sequences = sequences_of(said.sequences, given, f"sequences in {where}")
    if about.get("channels") not in (None, len(sequences)):
        raise ValueError(
            f"Another number of channels: {where}. Found {len(sequences)}; expected {about['channels']}, as the "
            f"network has. Correct it."
        )
    n = said.multiple
    codes = _codes(orientation or said.orientation, where)
    return Meaning(
        sequences, **found, threshold=said.threshold, normalisation=said.normalisation, orientation=codes,
        spacing_mm=said.spacing_mm, multiple=(n, n, n),
    )  # fmt: skip


def _codes(codes: str, where: str) -> str:
    """An orientation such as RAS or LPS; ValueError if it is none."""
    try:
        nib.orientations.axcodes2ornt(codes)
        fits = len({frozenset(pair) for pair in ("LR", "PA", "IS") if set(pair) & set(codes)}) == len(codes) == 3
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"Unknown orientation: {where}. Found {codes!r}; expected three letters of R or L, A or P, S or I. Correct "
            f"it."
        )
    return codes


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"Description is incomplete: {where}. Found {value!r}; expected a JSON object. Add it.")
    return value


def _only(value: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    found = _mapping(value, where)
    if len(found) != 1:
        raise ValueError(
            f"Bundle has several tensors: {where}. Found {', '.join(found)}; expected one. Such a model cannot be "
            f"evaluated."
        )
    (key, inner) = next(iter(found.items()))
    return key, _mapping(inner, where)
