"""What a foreign model's channels and numbers mean, from their names. Nothing is guessed from order or number."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ummgat.core.domain import check_sequence
from ummgat.core.study import LABELS
from ummgat.intake.layouts import sequence_of

BACKGROUND = "background"

_NAMES = {
    **dict.fromkeys(("background", "bg"), BACKGROUND),
    **dict.fromkeys(("ncr", "necrosis", "necrotic", "necroticcore", "necrotictumorcore", "ncrnet", "netc"), "NCR"),
    **dict.fromkeys(
        ("nonenhancingtumorcore", "necroticandnonenhancingtumorcore", "necroticnonenhancingtumorcore"), "NCR"
    ),
    **dict.fromkeys(("necroticandnonenhancingtumor", "nonenhancingtumor"), "NCR"),
    **dict.fromkeys(("ed", "edema", "oedema", "peritumoraledema", "snfh"), "ED"),
    **dict.fromkeys(("et", "enhancingtumor", "enhancing", "gdenhancingtumor", "enhancingtissue"), "ET"),
    **dict.fromkeys(("wt", "wholetumor"), "WT"),
    **dict.fromkeys(("tc", "tumorcore"), "TC"),
}  # fmt: skip
"""Spelling in small letters and digits → a label, a region, or background. A tumour that is not said to be whole is
none."""

INSIDE = {"WT": "ED", "TC": "NCR", "ET": "ET"}
"""Regions from the largest on, and the label of what is in one and in no smaller one."""

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Meaning:
    """All that must be known to use a foreign model."""

    sequences: tuple[str, ...]
    """In the order of its channels."""
    labels: tuple[tuple[int, str], ...] = ()
    """Number it answers with → name in `study.LABELS`, WT or background."""
    regions: tuple[str, ...] = ()
    """If it answers 0 and 1 per region instead: WT, TC, ET in the order of its channels."""
    threshold: float | None = None
    """On its raw output, above which a region is found."""
    normalisation: Literal["none", "unit", "zscore"] = "none"
    """`none`: float32 1–255, background 0. `unit`: the same by 255. `zscore`: per image over its brain, background
    0."""
    axes: Literal["zyx", "xyz"] = "zyx"
    """Order of the axes after the channel."""
    orientation: str = "RAS"
    """Where x, y and z grow to."""
    spacing_mm: float | None = None
    """Voxel size it needs; None if it brings its own resampling or does not say."""
    multiple: tuple[int, int, int] = (1, 1, 1)
    """What the sides must be multiples of, in the order of `axes`."""
    window: tuple[int, int, int] | None = None

    @property
    def covers(self) -> Literal["multi", "wt"]:
        """Whether it tells labels apart, or one whole tumour."""
        names = set(self.regions) or {name for _, name in self.labels} - {BACKGROUND}
        return "wt" if names == {"WT"} else "multi"


def sequences_of(names: Sequence[str], given: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Sequences of the channels called `names`, or the `given` ones, as many.

    Raises
    ------
    ValueError
        If a name is not known, two are the same, or there are not as many as channels.
    """
    if given is not None:
        if len(given) != len(names):
            raise ValueError(
                f"Another number of channels: {where}. Found {len(names)} ({', '.join(names)}); expected {len(given)} "
                f"as in --segmenter-sequences. Name each, in the model's order."
            )
        found: list[str | None] = [check_sequence(name, "--segmenter-sequences") for name in given]
    else:
        found = [sequence_of(name) for name in names]
    unknown = [name for name, q in zip(names, found, strict=True) if q is None]
    known = tuple(q for q in found if q is not None)
    if unknown or not known or len(set(known)) < len(known):
        raise ValueError(
            f"Channels are not clear: {where}. Found {', '.join(names) or 'none'}; expected names of sequences, each "
            f"once. Give the order with --segmenter-sequences, as t1,t1ce,t2,flair."
        )
    return known


def name_of(text: str, where: str) -> str:
    """Label, region or `background` that a name means; ValueError if it means none."""
    short = re.sub(r"[^a-z0-9]", "", text.lower().replace("tumour", "tumor"))
    if short not in _NAMES:
        raise ValueError(
            f"Unknown label: {where}. Found {text!r}; expected background and NCR, ED, ET (or WT, TC, ET), or the same "
            f"in words. Name what it is there, if it is one of these; a model of anything else cannot be evaluated."
        )
    return _NAMES[short]


def numbered(names: Mapping[int, str], where: str) -> tuple[tuple[int, str], ...]:
    """Numbers of background, NCR, ED and ET, or of WT alone; ValueError if a label is missing or has two."""
    found = {number: name_of(text, where) for number, text in names.items()}
    meant = sorted(name for name in found.values() if name != BACKGROUND)
    if meant not in (sorted(LABELS), ["WT"]):
        raise ValueError(
            f"Labels do not tell the tumour: {where}. Found {', '.join(names.values())}; expected one number each for "
            f"NCR, ED and ET, or one for WT. A model of anything else cannot be evaluated."
        )
    return tuple(sorted(found.items()))


def channel_meaning(names: Sequence[str], where: str) -> dict[str, Any]:
    """`labels` or `regions` of a `Meaning`, for a model with an output per name; ValueError if they are not clear."""
    found = [name_of(text, where) for text in names]
    if BACKGROUND in found:
        return {"labels": numbered(dict(enumerate(names)), where)}
    if sorted(found) not in (sorted(INSIDE), ["WT"]):
        raise ValueError(
            f"Outputs do not tell the tumour: {where}. Found {', '.join(names)}; expected WT, TC and ET, or WT, or "
            f"background and labels. A model of anything else cannot be evaluated."
        )
    return {"regions": tuple(found)}


def ours(answer: NDArray[Any], shape: tuple[int, ...], meaning: Meaning, where: str) -> Labels:
    """Labels numbered as `study.LABELS`.

    Parameters
    ----------
    answer : ndarray
        Whole numbers of `shape`; with `meaning.regions`, 0 and 1 of (region, *shape).

    Raises
    ------
    ValueError
        Another shape, another type, or numbers that mean nothing.
    """
    expected = (len(meaning.regions), *shape) if meaning.regions else shape
    if answer.shape != expected:
        raise ValueError(
            f"Segmenter answers on another grid: {where}. Found shape {answer.shape}; expected {expected}. Its labels "
            f"must lie on the grid of the images, and its outputs be as many as it names."
        )
    if answer.dtype.kind not in "iub":
        raise ValueError(
            f"Segmenter answers with another type: {where}. Found {answer.dtype}; expected whole numbers. Correct the "
            f"model."
        )
    out = np.zeros(shape, np.uint8)
    known = {0, 1} if meaning.regions else {number for number, _ in meaning.labels}
    strange = sorted(set(np.unique(answer).tolist()) - known)
    if strange:
        raise ValueError(
            f"Segmenter answers with unknown labels: {where}. Found {', '.join(map(str, strange[:8]))}; expected "
            f"{', '.join(map(str, sorted(known)))}. Correct the model, or what it says of its labels."
        )
    if meaning.regions:
        for region, label in INSIDE.items():  # a smaller one wins
            if region in meaning.regions:
                out[answer[meaning.regions.index(region)] > 0] = LABELS[label]
        return out
    for number, name in meaning.labels:
        if name != BACKGROUND:
            out[answer == number] = LABELS[INSIDE["WT"] if name == "WT" else name]
    return out
