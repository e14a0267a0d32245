"""A training cohort in one small file, to be carried to a machine with an accelerator and held in its memory there.

It holds what a training run may read and nothing else: the drawn volumes within the training crop, their labels, and
what the atlas shows beside each (`ummgat.train.atlas_learning`). Planes are WebP images; at the default quality their
error in brain has a root mean square of about one grey level of 255, and background is exact. File names and paths stay
behind; subject ids come along, since no subject may be its own reference.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ummgat.core.crop import crop, crop_window
from ummgat.core.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from ummgat.model.atlas import Brought
    from ummgat.train.slices import TrainingVolume

Bytes = NDArray[np.uint8]

FORMAT = "ummgat-packed-1"

QUALITY, ATLAS_QUALITY = 97, 94
"""Of WebP. Atlases are smooth."""

NOT_ANNOTATED = 255
"""Label of voxels of a subject that nobody annotated."""

SPREAD_STEP = 2
"""Of every so many voxels of the atlas's spread one is kept."""


class PackedVolume(NamedTuple):
    """What `train.slices.TrainingVolume` says of a volume, without the study."""

    subject: str
    sequence: str
    domain: int
    first: int
    """Plane of the study that is the first packed one."""
    planes: NDArray[np.int64]
    heights: NDArray[np.float64]
    has_lesion: NDArray[np.bool_]


@dataclass(frozen=True)
class Packed:
    """All volumes, unpacked."""

    volumes: tuple[PackedVolume, ...]
    domains: tuple[str, ...]
    images: Bytes
    """(volume, plane, row, column): brain 1–255, background 0."""
    labels: Bytes
    """(volume, plane, row, column): those of its subject."""
    subjects: NDArray[np.int64]
    """(volume,): number of its subject in what follows."""
    means: Bytes
    """(subject, domain, plane, row, column): of the atlas, coarse, padded at the end of each axis."""
    spreads: Bytes
    """Like `means`, coarser by `SPREAD_STEP`."""
    boxes: NDArray[np.float32]
    """(subject, 3, 3): for plane, row and column of the packed image the start and length of what the atlas covers, and
    how many voxels of it do."""

    def mates(self) -> NDArray[np.int64]:
        """(volume, domain): the volume of the same subject in each domain; -1 where there is none."""
        found = {(v.subject, v.domain): i for i, v in enumerate(self.volumes)}
        rows = [[found.get((v.subject, d), -1) for d in range(len(self.domains))] for v in self.volumes]
        return np.array(rows, np.int64)


def pack(
    volumes: "Sequence[TrainingVolume]",
    domains: Sequence[str],
    atlas: "Mapping[tuple[str, str], Brought]",
    size: tuple[int, int],
    file: Path,
    quality: int = QUALITY,
) -> None:
    """Write volumes of some subjects; all volumes of a subject go into one file.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
    domains : sequence of str
        Names, in the order of `TrainingVolume.domain`.
    atlas : mapping of (subject, sequence) → Brought
    size : (int, int)
        Rows and columns of the training crop.
    file : Path
        Written atomically.
    quality : int
        1–100, of WebP.
    """
    tensors: dict[str, torch.Tensor] = {}
    told: list[dict[str, Any]] = []
    by_subject: dict[str, list[TrainingVolume]] = {}
    for volume in volumes:
        by_subject.setdefault(volume.study.subject, []).append(volume)
    for number, (subject, own) in enumerate(by_subject.items()):
        shown = [np.asarray(v.study.volume(v.sequence)) for v in own]
        brain = np.any([image > 0 for image in shown], axis=0)
        corner = crop_window(brain, *size)
        first = max(0, min(int(v.planes[0]) for v in own) - 1)
        last = min(len(brain) - 1, max(int(v.planes[-1]) for v in own) + 1)
        labels = own[0].study.labels()
        if labels is not None:
            tensors[f"{subject}.labels"] = _squeezed(_cut(np.asarray(labels), first, last, corner, size))
        # Registered by one of its images, as that of a study with a single sequence is; in turn, so that each kind
        # occurs.
        at = atlas[subject, own[number % len(own)].sequence]
        tensors[f"{subject}.means"], mean_sizes = _coded(_tiled(at.means), ATLAS_QUALITY)
        spreads = at.spreads[:, ::SPREAD_STEP, ::SPREAD_STEP, ::SPREAD_STEP]
        tensors[f"{subject}.spreads"], spread_sizes = _coded(_tiled(spreads), ATLAS_QUALITY)
        starts = np.array([at.box[0].start - first, at.box[1].start - corner[0], at.box[2].start - corner[1]])
        reference: NDArray[np.bool_] | None = None
        for volume, image in zip(own, shown, strict=True):
            planes = _cut(image, first, last, corner, size)
            mask = planes > 0
            changed = mask if reference is None else mask ^ reference
            reference = mask if reference is None else reference
            name = f"{subject}.{volume.sequence}"
            tensors[f"{name}.brain"] = _squeezed(np.packbits(changed))
            tensors[f"{name}.image"], sizes = _coded(planes, quality)
            told.append(
                {
                    "subject": subject,
                    "sequence": volume.sequence,
                    "domain": volume.domain,
                    "first": first,
                    "n": last + 1 - first,
                    "planes": volume.planes.tolist(),
                    "heights": [round(float(h), 5) for h in volume.heights],
                    "has_lesion": volume.has_lesion.astype(int).tolist(),
                    "sizes": [sizes, mean_sizes, spread_sizes],
                    "means": list(at.means.shape),
                    "spreads": list(spreads.shape),
                    "box": [starts.tolist(), [b.stop - b.start for b in at.box]],
                }
            )
    save_tensors(file, tensors, {"format": FORMAT, "domains": list(domains), "size": list(size), "volumes": told})


def load_packed(files: Sequence[Path], threads: int = 1) -> Packed:
    """Unpack files of one cohort.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing or damaged files, of another kind, or not of one cohort.
    """
    parts, domains, sizes = [], None, None
    for file in files:
        tensors, metadata = load_tensors(file, FORMAT)
        if domains not in (None, metadata["domains"]) or sizes not in (None, metadata["size"]):
            raise ValueError(
                f"Packed files do not belong together: {file}. Found domains {metadata['domains']}, crop "
                f"{metadata['size']}; expected {domains}, {sizes}. Pack them from one draw."
            )
        domains, sizes = metadata["domains"], metadata["size"]
        parts += [(tensors, told) for told in metadata["volumes"]]
    if domains is None or sizes is None or not parts:
        raise ValueError("Nothing is packed. Found no volume; expected at least one file with some. Name the files.")
    depth = max(told["n"] for _, told in parts)
    coarse = np.max([told["means"][1:] for _, told in parts], axis=0)
    coarser = np.max([told["spreads"][1:] for _, told in parts], axis=0)
    n, k = len(parts), len(domains)
    references: dict[str, int] = {}
    for i, (_, told) in enumerate(parts):
        references.setdefault(told["subject"], i)
    numbers = {subject: number for number, subject in enumerate(references)}
    firsts = [parts[i][1] for i in references.values()]
    out = Packed(
        volumes=tuple(
            PackedVolume(
                t["subject"],
                t["sequence"],
                t["domain"],
                t["first"],
                np.array(t["planes"]),
                np.array(t["heights"]),
                np.array(t["has_lesion"], bool),
            )
            for _, t in parts
        ),
        domains=tuple(domains),
        images=np.zeros((n, depth, *sizes), np.uint8),
        labels=np.full((n, depth, *sizes), NOT_ANNOTATED, np.uint8),
        subjects=np.array([numbers[t["subject"]] for _, t in parts]),
        means=np.zeros((len(firsts), k, *coarse), np.uint8),
        spreads=np.zeros((len(firsts), k, *coarser), np.uint8),
        boxes=np.array([[*t["box"], t["means"][1:]] for t in firsts], np.float32).transpose(0, 2, 1),
    )

    def fill(i: int) -> None:
        tensors, told = parts[i]
        name, shape = f"{told['subject']}.{told['sequence']}", (told["n"], *sizes)
        brain = _bits(tensors[f"{name}.brain"], shape)
        first, other = parts[references[told["subject"]]]
        if other is not told:
            brain = brain ^ _bits(first[f"{other['subject']}.{other['sequence']}.brain"], shape)
        image = _decoded(tensors[f"{name}.image"], told["sizes"][0])
        out.images[i, : told["n"]] = np.where(brain, np.maximum(image, 1), 0)
        if f"{told['subject']}.labels" in tensors:
            labels = zlib.decompress(tensors[f"{told['subject']}.labels"].numpy().tobytes())
            out.labels[i, : told["n"]] = np.frombuffer(labels, np.uint8).reshape(shape)
        if other is told:
            for kind, order, target in (("means", 1, out.means), ("spreads", 2, out.spreads)):
                maps = _untiled(_decoded(tensors[f"{told['subject']}.{kind}"], told["sizes"][order]), told[kind])
                _, planes, rows, columns = maps.shape
                target[numbers[told["subject"]], :, :planes, :rows, :columns] = maps

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(n)))
    return out


def _cut(volume: NDArray[np.uint8], first: int, last: int, corner: tuple[int, int], size: tuple[int, int]) -> Bytes:
    return np.stack([np.ascontiguousarray(crop(volume[i], corner, *size)) for i in range(first, last + 1)])


def _squeezed(values: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(zlib.compress(values.tobytes(), 9), np.uint8).copy())


def _bits(squeezed: torch.Tensor, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = np.frombuffer(zlib.decompress(squeezed.numpy().tobytes()), np.uint8)
    return np.unpackbits(values, count=int(np.prod(shape))).reshape(shape).astype(bool)


def _coded(planes: Bytes, quality: int) -> tuple[torch.Tensor, list[int]]:
    """WebP images one after the other, and their lengths."""
    parts = []
    for plane in planes:
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "WEBP", quality=quality, method=4)
        parts.append(stream.getvalue())
    return torch.from_numpy(np.frombuffer(b"".join(parts), np.uint8).copy()), [len(p) for p in parts]


def _decoded(coded: torch.Tensor, sizes: Sequence[int]) -> Bytes:
    ends = np.cumsum(sizes)
    data = coded.numpy().tobytes()
    return np.stack(
        [
            np.asarray(Image.open(io.BytesIO(data[end - n : end])).convert("L"))
            for end, n in zip(ends.tolist(), sizes, strict=True)
        ]
    )


def _tiled(maps: Bytes) -> Bytes:
    """(domain, plane, row, column) → (domain, row, plane · column): one image a domain, planes side by side."""
    n, planes, rows, columns = maps.shape
    return np.ascontiguousarray(maps.transpose(0, 2, 1, 3).reshape(n, rows, planes * columns))


def _untiled(images: Bytes, shape: Sequence[int]) -> Bytes:
    n, planes, rows, columns = shape
    return images.reshape(n, rows, planes, columns).transpose(0, 2, 1, 3)
