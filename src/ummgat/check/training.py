"""Teach the classifier of sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ummgat.check.augment import augmented
from ummgat.check.network import CLASSES, SequenceNet

Labelled = tuple[Tensor, str]
"""Planes of one volume, see `slices.standard_slices`, and its sequence."""

OnStep = Callable[[int, float], None]
"""(steps done, loss)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How the classifier is taught."""

    iterations: int = 2000
    batch: int = 48
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.02
    also_share: float = 0.33
    """Part of each batch from the further volumes, if there are any."""
    seed: int = 0


def train_network(
    volumes: Sequence[Labelled],
    also: Sequence[Labelled] = (),
    settings: TrainingSettings | None = None,
    on_step: OnStep | None = None,
) -> SequenceNet:
    """Train on planes drawn at random, each class equally often.

    Parameters
    ----------
    volumes : sequence of (planes, sequence)
    also : sequence of (planes, sequence)
        Of another world, such as phantoms.
    settings : TrainingSettings, optional
    on_step : callable, optional

    Returns
    -------
    SequenceNet
        In evaluation mode. The same for the same arguments on one machine.

    Raises
    ------
    ValueError
        A class of `CLASSES` has no volume.
    """
    how = settings or TrainingSettings()
    random = Generator().manual_seed(how.seed)
    pools = [(_pool(volumes), how.batch - (round(how.batch * how.also_share) if also else 0))]
    if also:
        pools.append((_pool(also), how.batch - pools[0][1]))
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        net = SequenceNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=how.iterations)
    net.train()
    for step in range(how.iterations):
        drawn = [_draw(pool, n, random) for pool, n in pools]
        planes = augmented(torch.cat([x for x, _ in drawn]), random)
        loss = F.cross_entropy(net(planes), torch.cat([y for _, y in drawn]), label_smoothing=how.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    return net.eval()


def _pool(volumes: Sequence[Labelled]) -> list[Tensor]:
    """Planes of each class."""
    pool = [[planes for planes, name in volumes if name == wanted] for wanted in CLASSES]
    lacking = [name for name, planes in zip(CLASSES, pool, strict=True) if not planes]
    if lacking:
        raise ValueError(
            f"Sequences cannot be told apart. Found no training volume of {', '.join(lacking)}; expected some of each "
            f"of {', '.join(CLASSES)}. Add studies that have them."
        )
    return [torch.cat(planes) for planes in pool]


def _draw(pool: Sequence[Tensor], n: int, random: Generator) -> tuple[Tensor, Tensor]:
    classes = torch.randint(len(pool), (n,), generator=random)
    planes = [pool[c][torch.randint(len(pool[c]), (1,), generator=random)] for c in classes.tolist()]
    return torch.cat(planes), classes
