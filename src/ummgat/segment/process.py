"""A long-lived process of its own for a foreign model: asked, waited for, killed with its children, started again."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ummgat.segment import worker

_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|TEMP|TMP|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH"
    r"|DYLD_.*LIBRARY_PATH|SYSTEMROOT|(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|CUDA_.*|NVIDIA_.*|HIP_.*|ROCR_.*|nnUNet_.*"
    r"|(XDG|MPL|TORCH|MONAI)_?.*(HOME|DIR|CACHE.*|CONFIGDIR)"
)
"""What a model that others made needs to know of the environment: where programs and libraries lie, language, threads,
devices."""


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a foreign model's process gets: no tokens, no passwords.

    Examples
    --------
    >>> passed_on({"PATH": "/bin", "CLOUD_SECRET": "x", "nnUNet_results": "/models"})
    {'PATH': '/bin', 'nnUNet_results': '/models'}
    """
    return {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name)}


@dataclass
class Worker:
    """A process that runs `worker.py`. Never outlives this one."""

    kind: str
    """Of `worker.OPENERS`."""
    path: Path
    timeout_s: float = 600.0
    """How long an answer may take, opening the model included."""
    python: Path | None = None
    """Interpreter that has the model's packages; default: this one."""
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _log: IO[bytes] | None = field(default=None, repr=False)
    _end: Any = field(default=None, repr=False)

    def start(self) -> dict[str, Any]:
        """Start the process and open the model; what it says about itself.

        Raises
        ------
        ValueError
            If there is no such interpreter, or the model does not open. No process is left.
        """
        self.end()
        command = [str(self.python or sys.executable), worker.__file__]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                start_new_session=True,  # a group of its own, to be killed with its children
                env=passed_on(os.environ),
            )
        except OSError as error:
            self._log.close()
            raise ValueError(
                f"Segmenter's Python does not start: {command[0]}. Found {error.strerror}; expected an interpreter. "
                f"Correct --segmenter-python."
            ) from error
        self._end = weakref.finalize(self, _end, self._process, self._log)
        try:
            answer, _ = self._exchange({"kind": self.kind, "path": str(self.path.resolve())}, None)
        except BaseException:
            self.end()
            raise
        about: dict[str, Any] = answer["about"]
        return about

    def ask(self, request: dict[str, Any], images: NDArray[np.float32]) -> NDArray[Any]:
        """Segment.

        Raises
        ------
        ValueError
            If the model raises, dies, or does not answer in time. It is started again when asked next.
        """
        if self._process is None:
            self.start()
        _, found = self._exchange(request, images)
        if found is None:
            self.end()
            raise ValueError(self._message("answers without an array", "nothing", "labels"))
        return np.asarray(found)

    def end(self) -> None:
        """Kill the process and its children, if there is one."""
        if self._end is not None:
            self._end()
        self._process = self._log = self._end = None

    def _exchange(self, request: dict[str, Any], images: Any) -> tuple[dict[str, Any], Any]:
        """Send, and wait for the answer in a thread that a kill releases."""
        process = self._process
        assert process is not None
        answers: list[tuple[dict[str, Any], Any] | Exception] = []

        def talk() -> None:
            try:
                worker.send(process.stdin, request, images)
                answers.append(worker.receive(process.stdout))
            except Exception as error:  # noqa: BLE001  (garbage on the pipe can be anything)
                answers.append(error)

        thread = Thread(target=talk, daemon=True)
        thread.start()
        try:
            thread.join(self.timeout_s)
        except BaseException:  # Ctrl-C: what comes later would be taken for the next answer
            self.end()
            raise
        if thread.is_alive():
            self._kill()
            raise ValueError(
                self._message("does not answer", f"nothing after {self.timeout_s:g} s", "labels")
                + " Or raise --segmenter-timeout."
            )
        (answer,) = answers
        if isinstance(answer, Exception):
            self._kill()
            ended = isinstance(answer, EOFError | BrokenPipeError)
            what = "the end of its process" if ended else f"{answer or type(answer).__name__}"
            raise ValueError(self._message("breaks off", what, "an answer")) from answer  # noqa: TRY004
        if "error" in answer[0]:
            raise ValueError(
                f"Segmenter fails: {self.path}. Found {answer[0]['error']}; expected labels. Correct the model, or "
                f"what it is given."
            )
        return answer

    def _kill(self) -> None:
        """End it, and keep its last words for the message."""
        assert self._process is not None
        assert self._log is not None
        _kill(self._process)
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        self._last = " / ".join(lines[-3:])
        self.end()

    _last: str = field(default="", repr=False)

    def _message(self, what: str, found: str, expected: str) -> str:
        said = f" (its last words: {self._last})" if self._last else ""
        return (
            f"Segmenter {what}: {self.path}. Found {found}{said}; expected {expected}. Its process was ended, and "
            f"starts anew for the next study; see whether the model runs by itself."
        )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        # Nobody has waited for it yet, so the number is still its own.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    if process.returncode is None:
        _kill(process)
    for file in (process.stdin, process.stdout, log):
        if file is not None:
            with suppress(OSError):
                file.close()
