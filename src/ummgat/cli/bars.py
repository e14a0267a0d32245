"""Progress of a training run, and what it will cost."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ummgat.cli.terminal import console, duration, say

if TYPE_CHECKING:
    from ummgat.train.estimate import Estimate


def print_estimate(cost: "Estimate", iterations: int) -> None:
    """Print what is left of a run in time and memory."""
    memory = "" if cost.memory_bytes is None else f", {cost.memory_bytes / 1e9:.1f} GB of memory"
    say(
        f"{cost.parameters / 1e6:.1f} million parameters; {cost.seconds_per_step:.2f} s per step on {cost.device} with "
        f"{cost.threads} threads; {duration(cost.seconds)} for what is left of {iterations} steps, validation not "
        f"included{memory}."
    )


@contextmanager
def training_progress(iterations: int, every: int) -> Iterator[Callable[[int, dict[str, float], float], None]]:
    """Bar with loss parts and time left on a terminal, a line every `every` steps elsewhere, and the news of the
    loop.
    """
    bar = _TrainingBar(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=300,
        disable=not console.is_terminal,
    )
    task = bar.add_task("steps", total=iterations, start=False)
    recent: dict[str, float] = {}
    pace = 0.0

    def on_step(step: int, parts: dict[str, float], seconds: float) -> None:
        nonlocal pace
        recent.update(parts)  # parts computed at intervals keep their last value
        pace = seconds if pace == 0 else 0.9 * pace + 0.1 * seconds
        text = "  ".join(f"{name} {value:.3f}" for name, value in recent.items())
        if not bar.tasks[0].started:
            bar.start_task(task)
            bar.update(task, completed=step - 1)
        bar.parts = text
        bar.update(task, completed=step)
        if not console.is_terminal and (step % every == 0 or step == iterations):
            say(f"step {step}/{iterations}  {duration(pace * (iterations - step))} left  {text}")

    news = _News()
    logger = logging.getLogger("ummgat")
    level = logger.level
    logger.addHandler(news)
    logger.setLevel(logging.INFO)
    try:
        with bar:
            yield on_step
    finally:
        logger.removeHandler(news)
        logger.setLevel(level)


class _TrainingBar(Progress):
    """A bar with the loss parts in a line of their own."""

    parts = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Bar, then parts."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.parts)


class _News(logging.Handler):
    """Print what the training loop logs, validation scores above all, above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        say(record.getMessage())
