"""Training batches drawn and varied where the networks are: the cohort lies in the accelerator's memory
(`packed_cohort`).

The same draws as `train.slices.SliceSampler`, and the same variations as `augment`, as tensor operations on a whole
batch: a processor that varies slice after slice feeds a small fraction of what an accelerator learns from. A batch is a
function of (seed, step) on one kind of device.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.config import DataConfig
from ummgat.core.normalise import LEVEL
from ummgat.core.study import Study
from ummgat.train.losses import Tensors, has_lesion_pair
from ummgat.train.packed_cohort import NOT_ANNOTATED, SPREAD_STEP, Packed
from ummgat.train.slices import Drawn, SliceSampler, TrainingVolume


class Places(NamedTuple):
    """Which slices a batch is made of. All (batch,) int64: volume, packed plane, and 1 where mirrored."""

    volume: Tensor
    plane: Tensor
    mirrored: Tensor


class DeviceSampler:
    """Draws batches on a device.

    Parameters
    ----------
    packed : Packed
    config : DataConfig
    seed : int
    device : torch.device
    count_pairs : bool
        Count what `Tensors.lesion_pairs` says, for which the processor waits for the accelerator; else 0.
    """

    def __init__(
        self, packed: Packed, config: DataConfig, seed: int, device: torch.device, count_pairs: bool = False
    ) -> None:
        self.config, self.seed, self.device, self.count_pairs = config, seed, device, count_pairs
        self.first = np.array([v.first for v in packed.volumes])
        volumes = [
            # What a draw asks of a study is its subject alone.
            TrainingVolume(
                cast(Study, SimpleNamespace(subject=v.subject)),
                v.sequence,
                v.domain,
                v.planes,
                v.heights,
                v.has_lesion,
                (0, 0),
            )
            for v in packed.volumes
        ]
        self.numbers = {(v.subject, v.sequence): i for i, v in enumerate(packed.volumes)}
        self.drawer = SliceSampler(volumes, len(packed.domains), config, seed)
        self.mates = packed.mates()

        def there(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(device)

        self.images, self.labels = there(packed.images), there(packed.labels)
        self.subjects = there(packed.subjects)
        self.means, self.spreads, self.boxes = there(packed.means), there(packed.spreads), there(packed.boxes)

    def batch(self, step: int, size: int, latent_dim: int, paired: bool = False) -> Tensors:
        """Draw the batch of `step`, whole crops; parameters and result as `train.slices.SliceSampler.batch` has
        them.
        """
        rng = np.random.default_rng([self.seed, step])
        drawn, y_src, y_trg = self.drawer.draw(rng, size)
        others = [self.drawer.other_plane(rng, source) for source, _ in drawn]
        source = self._places([s for s, _ in drawn])
        reference, other = self._places([r for _, r in drawn]), self._places(others)
        chance = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        chances = self._sent(rng.random((size, len(CHANCES)), np.float32))
        z = rng.standard_normal((2, size, latent_dim), dtype=np.float32)
        from_, to = self._sent(y_src), self._sent(y_trg)
        labels_src, labels_ref = self._annotated(source), self._annotated(reference)
        x_true = None
        if paired:
            numbers = [self._number(s) for s, _ in drawn]
            mates = self._sent(self.mates[numbers, y_trg])
            known = (mates >= 0).view(-1, 1, 1, 1)
            x_true = torch.where(known, self._image(source._replace(volume=mates.clamp_min(0))), -1.0)
        shape = (size, 1, *self.config.crop)
        batch = Tensors(
            x_src=self._image(source),
            y_src=from_,
            lesion_src=(labels_src > 0).float(),
            x_ref=self._image(reference),
            y_trg=to,
            lesion_ref=(labels_ref > 0).float(),
            z=self._sent(z),
            lesion_pairs=0.0,
            labels_src=labels_src,
            labels_ref=labels_ref,
            x_true=x_true,
            near_src=torch.cat([self._near(source, step_) for step_ in (-1, 1)], 1),
            atlas_src=self._atlas(source, from_, to),
            atlas_ref=self._atlas(reference, to, from_),
            noise=torch.randn(shape, generator=chance, device=self.device),
            chances=self._sent(rng.random((size, 4), np.float32)),
        )
        batch = self._varied(batch, self._image(other), chances, chance)
        return batch._replace(lesion_pairs=float(has_lesion_pair(batch).sum())) if self.count_pairs else batch

    def _sent(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _number(self, drawn: Drawn) -> int:
        return self.numbers[drawn.volume.study.subject, drawn.volume.sequence]

    def _places(self, drawn: list[Drawn]) -> Places:
        numbers = np.array([self._number(d) for d in drawn])
        planes = np.array([d.plane for d in drawn]) - self.first[numbers]
        return Places(self._sent(numbers), self._sent(planes), self._sent(np.array([d.flipped for d in drawn])))

    def _image(self, at: Places) -> Tensor:
        """(batch, 1, row, column) in [-1, 1]."""
        return _mirrored(self.images[at.volume, at.plane], at.mirrored)[:, None].float() / 127.5 - 1

    def _near(self, at: Places, step: int) -> Tensor:
        """A neighbouring plane, [0, 2]; 0 beyond the packed ones."""
        plane = at.plane + step
        inside = (plane >= 0) & (plane < self.images.shape[1])
        image = self._image(at._replace(plane=plane.clamp(0, self.images.shape[1] - 1))) + 1
        return image * inside.view(-1, 1, 1, 1)

    def _annotated(self, at: Places) -> Tensor:
        """Labels; -1 where nobody annotated."""
        labels = _mirrored(self.labels[at.volume, at.plane], at.mirrored)[:, None].float()
        return torch.where(labels == NOT_ANNOTATED, -1.0, labels)

    def _atlas(self, at: Places, own: Tensor, other: Tensor) -> Tensor:
        """(batch, 3, row, column): means of own and other domain, spread of the other, [0, 2]."""
        subject = self.subjects[at.volume]
        means = torch.stack([self.means[subject, own], self.means[subject, other]], 1)
        shown = [self._brought(means, at), self._brought(self.spreads[subject, other][:, None], at)]
        return _mirrored(torch.cat(shown, 1), at.mirrored)

    def _brought(self, maps: Tensor, at: Places) -> Tensor:
        """Coarse maps (batch, n, plane, row, column) in the crop at one plane: (batch, n, row, column), 0 outside."""
        start, length, n = self.boxes[self.subjects[at.volume]].unbind(2)  # each (batch, 3)
        whole = at.plane.float()[:, None]
        rows, columns = (torch.arange(side, device=self.device, dtype=torch.float32) for side in self.config.crop)
        step = 1 if maps.shape[2:] == self.means.shape[2:] else SPREAD_STEP
        axes = []
        inside = torch.ones((), device=self.device)
        for axis, index in enumerate((whole, rows[None], columns[None])):
            place = index - start[:, axis, None]
            within = ((place >= 0) & (place < length[:, axis, None])).float()
            inside = inside * (
                within[..., None] if axis == 1 else within[:, None] if axis == 2 else within[:, :1, None]
            )
            found = ((place + 0.5) * n[:, axis, None] / length[:, axis, None] - 0.5).clamp_min(0.0)
            found = torch.minimum(found, n[:, axis, None] - 1)
            axes.append((2 * found / step + 1) / maps.shape[2 + axis] - 1)
        shape = (len(maps), 1, len(rows), len(columns))
        grid = torch.stack(
            [
                axes[2][:, None, None, :].expand(shape),
                axes[1][:, None, :, None].expand(shape),
                axes[0][:, :, None, None].expand(shape),
            ],
            dim=-1,
        )
        values = F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]
        return values / 127.5 * inside[:, None]

    def _varied(self, batch: Tensors, same: Tensor, numbers: Tensor, chance: torch.Generator) -> Tensors:
        """As `train.slices.SliceSampler` varies: shown as other scanners and heads would; what stands beside hidden or
        spoilt.
        """
        config = self.config
        p = dict(zip(CHANCES, numbers.unbind(1), strict=True))
        assert batch.near_src is not None
        assert batch.atlas_src is not None
        assert batch.labels_src is not None
        x_true = batch.x_src if batch.x_true is None else batch.x_true
        stack = torch.cat([batch.x_src + 1, x_true + 1, batch.near_src, batch.atlas_src], 1)
        grid = move_grid(numbers, config.crop)
        moves = (p["warp"] < config.warp).view(-1, 1, 1, 1)
        stack = torch.where(moves, _moved(stack, grid), stack)
        labels = F.grid_sample(batch.labels_src, grid, mode="nearest", align_corners=True)
        labels = torch.where(moves, labels, batch.labels_src)
        clean, x_true, near, atlas = stack[:, :1] - 1, stack[:, 1:2] - 1, stack[:, 2:4], stack[:, 4:]
        near = near * (p["near"] >= 0.2).view(-1, 1, 1, 1)
        dropped = p["atlas"] < config.atlas_dropped
        shifted = ~dropped & (p["atlas"] < config.atlas_dropped + config.atlas_shifted)
        atlas = torch.where(shifted.view(-1, 1, 1, 1), self._shifted(atlas, p), atlas)
        atlas = atlas * (~dropped).view(-1, 1, 1, 1)
        toned = p["toned"] < 0.8
        tone = _tone(p["gain"], p["offset"], p["gamma"], toned)
        another = _tone(p["gain_2"], p["offset_2"], p["gamma_2"], p["augment"] < config.augment)
        shown = torch.cat([clean, near - 1], 1)
        augmented = _shaded(_toned(shown, another), chance)
        shown = torch.where((p["augment"] < config.augment).view(-1, 1, 1, 1), augmented, shown)
        return batch._replace(
            x_src=shown[:, :1],
            near_src=shown[:, 1:] + 1,
            x_true=None if batch.x_true is None else x_true,
            labels_src=labels,
            lesion_src=(labels > 0).float(),
            atlas_src=atlas,
            x_clean=clean,
            x_tone=_toned(clean, tone),
            x_same=_toned(same, tone),
        )

    def _shifted(self, atlas: Tensor, p: dict[str, Tensor]) -> Tensor:
        """By up to 6 mm."""
        rows, columns = self.config.crop
        reach = 6 / self.config.spacing_mm
        shift = torch.stack(
            [(2 * p["shift_x"] - 1) * reach * 2 / columns, (2 * p["shift_y"] - 1) * reach * 2 / rows], 1
        )
        matrix = torch.eye(2, 3, device=atlas.device).repeat(len(atlas), 1, 1)
        matrix[:, :, 2] = shift
        grid = F.affine_grid(matrix, [len(atlas), 1, rows, columns], align_corners=False)
        return F.grid_sample(atlas, grid, mode="nearest", align_corners=False)


CHANCES = (
    *("warp", "angle", "scale_y", "scale_x", "move_y", "move_x", "near", "atlas", "shift_y", "shift_x"),
    *("toned", "gain", "offset", "gamma", "augment", "gain_2", "offset_2", "gamma_2"),
)
"""What is drawn for each slice, uniform in [0, 1]."""


def _mirrored(x: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(mirrored.view(-1, *([1] * (x.ndim - 1))), x.flip(-1), x)


def move_grid(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each pixel is taken from, as `augment.draw_move`: (batch, row, column, 2), for align_corners."""
    p = dict(zip(CHANCES, (2 * numbers - 1).unbind(1), strict=True))
    rows, columns = size
    angle = p["angle"] * np.radians(12)
    y, x = torch.exp(0.12 * p["scale_y"]), torch.exp(0.12 * p["scale_x"])
    cos, sin = torch.cos(angle), torch.sin(angle)
    # In pixels [[cos, -sin], [sin, cos]] · diag(y, x) on (row, column); here columns come first, in half sides.
    ratio = (rows - 1) / (columns - 1)
    move_x, move_y = (0.03 * p[name] * 2 * n / (n - 1) for name, n in (("move_x", columns), ("move_y", rows)))
    matrix = torch.stack(
        [
            torch.stack([cos * x, sin * y * ratio, move_x], 1),
            torch.stack([-sin * x / ratio, cos * y, move_y], 1),
        ],
        dim=1,
    )
    return F.affine_grid(matrix, [len(numbers), 1, rows, columns], align_corners=True)


def _moved(stack: Tensor, grid: Tensor) -> Tensor:
    """Move maps whose background is 0; their brain is interpolated without it."""
    both = torch.cat([stack, (stack > 0).float()], 1)
    values, share = F.grid_sample(both, grid, mode="bilinear", align_corners=True).chunk(2, 1)
    return torch.where(share >= 0.5, values / share.clamp_min(0.5), 0.0)


class _Tone(NamedTuple):
    gain: Tensor
    offset: Tensor
    gamma: Tensor


def _tone(gain: Tensor, offset: Tensor, gamma: Tensor, asked: Tensor) -> _Tone:
    """As `augment.draw_tone`, from uniform numbers; plain where it is not asked for."""
    low, high = np.log(0.75), np.log(1.33)
    found = _Tone(torch.exp(low + (high - low) * gain), 24 * offset - 12, torch.exp(low + (high - low) * gamma) ** 0.8)
    plain = (1.0, 0.0, 1.0)
    return _Tone(*(torch.where(asked, f, n).view(-1, 1, 1, 1) for f, n in zip(found, plain, strict=True)))


def _toned(x: Tensor, tone: _Tone) -> Tensor:
    """As `augment.toned`."""
    grey = (x + 1) * 127.5
    shown = LEVEL * (grey.clamp_min(1.0) / LEVEL) ** tone.gamma
    shown = LEVEL + tone.gain * (shown - LEVEL) + tone.offset
    return torch.where(x > -1, shown.clamp(1, 255) / 127.5 - 1, -1.0)


def _shaded(x: Tensor, chance: torch.Generator) -> Tensor:
    """As `augment.shaded`, for (batch, n, row, column)."""
    n, _, height, width = x.shape
    rows, columns = (torch.linspace(-1, 1, side, device=x.device) for side in (height, width))
    y, x_ = rows[:, None].expand(height, width), columns[None].expand(height, width)
    terms = torch.stack([y, x_, y * x_, y**2, x_**2])
    weights = 0.06 * torch.randn((n, 5), generator=chance, device=x.device)
    field = torch.exp(torch.einsum("bt,thw->bhw", weights, terms))[:, None]
    strength = 2.5 * torch.randn((n, 1, 1, 1), generator=chance, device=x.device).abs()
    shown = (x + 1) * 127.5 * field + strength * torch.randn(x.shape, generator=chance, device=x.device)
    return torch.where(x > -1, shown.clamp(1, 255) / 127.5 - 1, -1.0)
