"""One way to walk a cohort: every study is tried, one that fails ends no other, and one report says what became of all.

`work` is a function of a module and gets a context (settings, a model) and one study. In a single process it is simply
called; with several jobs the context goes to each worker process once, and studies go to whichever is free. What comes
out does not depend on that: reports are in the order of the studies, and no study sees another.
"""

import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, field
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from types import FrameType
from typing import Any, Generic, Literal, TypeVar

from ummgat.core.files import FULL

log = logging.getLogger(__name__)

S = TypeVar("S")
C = TypeVar("C")
T = TypeVar("T")

Progress = Callable[[int, int, str], None]
"""(studies finished, studies to do in all, what happened to the last one). Called with 0 before the first."""

_Outcome = tuple[Literal["done", "failed", "skipped", "full"], Any]


class Skipped(Exception):
    """Raised by `work` to leave a study out for a reason that is no failure."""


@dataclass
class Report(Generic[T]):
    """What became of the studies of a cohort, in their order."""

    done: dict[str, T] = field(default_factory=dict)
    """Subject → what was made of it, now."""
    up_to_date: list[str] = field(default_factory=list)
    """Subjects that an earlier run had finished."""
    failed: dict[str, str] = field(default_factory=dict)
    """Subject → why."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Subject → why it was left out, which is no failure."""

    @property
    def present(self) -> list[str]:
        """Subjects that are finished, now or before, sorted."""
        return sorted({*self.done, *self.up_to_date})

    def counts(self, done: str = "done") -> str:
        """What became of them as text.

        Examples
        --------
        >>> Report({"a": 1}, ["b", "c"], {"d": "broken"}).counts("prepared")
        '1 prepared, 2 up to date, 1 failed'
        """
        parts = [f"{len(self.done)} {done}", f"{len(self.up_to_date)} up to date"]
        parts += [f"{len(self.skipped)} skipped"] if self.skipped else []
        return ", ".join([*parts, f"{len(self.failed)} failed"])


def each(
    work: Callable[[C, S], T],
    studies: Mapping[str, S],
    context: C,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    on_done: Callable[[str, T], None] | None = None,
) -> Report[T]:
    """Do `work` for every study.

    Parameters
    ----------
    work : callable
        (context, study) → what is made of it. A function of a module, since worker processes look it up by its name. It
        may raise: `Skipped` with a reason, or anything else, which is then the reason why this study failed.
    studies : mapping of subject → study
        Those that are to be done; what is up to date is left out before, so that the total is known.
    context : object
        What all studies share. With several jobs it is pickled once.
    jobs : int
        Worker processes.
    progress : callable, optional
    on_done : callable, optional
        (subject, what was made of it), in this process, as soon as the study is finished: in any order with several
        jobs.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        Fewer than one job, or a context that cannot go to another process.
    OSError
        The disk is full, which stops every study. Finished ones stay.
    RuntimeError
        A worker process died.

    Notes
    -----
    Ctrl-C and SIGTERM (where a handler turns it into an exception, as the command line's does) end the workers too:
    each stops within its study and removes what it has half written.
    """
    if jobs < 1:
        raise ValueError(f"Bad number of jobs: --jobs. Found {jobs}; expected 1 or more. Correct it.")
    report: Report[T] = Report()
    if progress is not None:
        progress(0, len(studies), "")
    outcomes = (
        _here(work, studies, context) if jobs == 1 or len(studies) < 2 else _workers(work, studies, context, jobs)
    )
    with closing(outcomes):  # an interrupt must end the workers at once
        for finished, (subject, (what, value)) in enumerate(outcomes, start=1):
            if what == "full":
                raise OSError(*value)
            if what == "done":
                if on_done is not None:
                    on_done(subject, value)
                report.done[subject] = value
            else:
                (report.failed if what == "failed" else report.skipped)[subject] = value
            if progress is not None:
                progress(finished, len(studies), subject if what == "done" else f"{subject}: {what}")
    return Report(
        done=_in_order(report.done, studies),
        failed=_in_order(report.failed, studies),
        skipped=_in_order(report.skipped, studies),
    )


def _in_order(found: Mapping[str, T], studies: Iterable[str]) -> dict[str, T]:
    return {subject: found[subject] for subject in studies if subject in found}


def gathered(report: Report[list[T]]) -> list[T]:
    """All rows of a report whose studies gave rows."""
    return [row for rows in report.done.values() for row in rows]


def named(studies: Iterable[S], name: Callable[[S], str]) -> dict[str, S]:
    """Studies by their subjects, in the order given.

    Raises
    ------
    ValueError
        Two have one name.
    """
    found: dict[str, S] = {}
    for study in studies:
        if name(study) in found:
            raise ValueError(
                f"Two studies have one name: {name(study)}. Found it twice; expected every subject once. Rename one."
            )
        found[name(study)] = study
    return found


def reason(error: BaseException) -> str:
    """Why a study failed, for people: our own messages as they are, anything else as what it is."""
    if isinstance(error, MemoryError):
        return "Out of memory. Use fewer --jobs, or larger voxels."
    if isinstance(error, ValueError | OSError | ImportError):
        return str(error) or type(error).__name__
    log.error("a study failed", exc_info=error)
    return (
        f"Unexpected {type(error).__name__}: {error}. This is a bug of UMMGAT, or of a foreign model: please report it."
    )


def _attempt(work: Callable[[C, S], T], context: C, study: S) -> _Outcome:
    try:
        return "done", work(context, study)
    except Skipped as why:
        return "skipped", str(why)
    except Exception as error:  # noqa: BLE001  (a study that trips over a bug must not stop the others)
        if isinstance(error, OSError) and error.errno in FULL:
            return "full", error.args
        return "failed", reason(error)


def _here(work: Callable[[C, S], T], studies: Mapping[str, S], context: C) -> Generator[tuple[str, _Outcome]]:
    for subject, study in studies.items():
        yield subject, _attempt(work, context, study)


def _workers(
    work: Callable[[C, S], T], studies: Mapping[str, S], context: C, jobs: int
) -> Generator[tuple[str, _Outcome]]:
    """(subject, outcome) of each study as it is finished."""
    try:
        shared = pickle.dumps((work, context))
    except Exception as error:  # whatever an object's own pickling raises
        raise ValueError(
            f"Work cannot be shared by processes: --jobs. Found {jobs} jobs and what only one process can hold "
            f"({error}); expected 1, as for foreign segmenters. Leave --jobs out."
        ) from error
    jobs = min(jobs, len(studies))
    before = set(multiprocessing.active_children())
    # Ctrl-C reaches all processes at once: workers ignore it, and are told by SIGTERM.
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(shared, max(1, _cores() // jobs)),
    )
    try:
        futures: dict[Future[_Outcome], str] = {pool.submit(_attempt_there, s): name for name, s in studies.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"A worker process died. Found {error}; expected it to finish, so memory probably ran out. "
            "Run again with fewer --jobs; finished studies are kept."
        ) from error
    except BaseException:  # also when nobody takes the rest
        for process in set(multiprocessing.active_children()) - before:
            with suppress(OSError):
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


# ---------------------------------------------------------------- in a worker process


class _Stop(BaseException):
    """Unwinds a worker, so that what it has half written is removed."""


@dataclass
class _Worker:
    work: Callable[[Any, Any], Any] | None = None
    context: Any = None
    busy: bool = False
    stopping: bool = False


_worker = _Worker()


def _begin(shared: bytes, threads: int) -> None:
    """Get what all studies share, and share the cores with the other workers."""
    signal(SIGINT, SIG_IGN)
    signal(SIGTERM, _stop)
    _worker.work, _worker.context = pickle.loads(shared)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(min(threads, torch.get_num_threads()))


def _stop(_signal: int, _frame: FrameType | None) -> None:
    _worker.stopping = True
    if _worker.busy:
        raise _Stop


def _attempt_there(study: Any) -> _Outcome:
    assert _worker.work is not None
    if _worker.stopping:
        raise _Stop
    _worker.busy = True
    try:
        return _attempt(_worker.work, _worker.context, study)
    finally:
        _worker.busy = False
