"""Watching the loss, and the wish to stop."""

from __future__ import annotations

import math
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from openus.errors import OpenUSError
from usfmae.train.distributed import World
from usfmae.train.recipe import GuardRecipe


class DivergedError(OpenUSError):
    """The loss became no number, or leapt, more often than the recipe allows."""


class Guard:
    """Decides from each loss whether training is still sound. State: a running mean and a count of faults."""

    MEMORY = 0.98  # of the running mean: about 50 steps
    SETTLE = 50  # steps before a leap can be told from a start

    def __init__(self, recipe: GuardRecipe) -> None:
        self.recipe = recipe
        self.mean, self.seen, self.faults, self.last = 0.0, 0, 0, 0.0

    def fault(self, loss: float, norm: float = 0.0) -> str:
        """What is wrong with the loss of a step, or with the norm of its gradient; empty when nothing is.

        A gradient that is no number spoils the weights, which the loss tells one step, and maybe one checkpoint, late.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradient is {norm}"
        if self.recipe.spike and self.seen >= self.SETTLE and loss > self.recipe.spike * self.mean:
            return f"the loss leapt to {loss:.4g} from a running mean of {self.mean:.4g}"
        memory = min(self.MEMORY, self.seen / (self.seen + 1))
        self.mean = memory * self.mean + (1 - memory) * loss
        self.seen += 1
        self.last = loss
        return ""

    def count(self, what: str, step: int) -> None:
        """Record a fault; raises `DivergedError` when there were too many."""
        self.faults += 1
        if self.faults > self.recipe.rollbacks:
            raise DivergedError(
                f"step {step}: {what}, after {self.faults - 1} returns to the last checkpoint; lower optim.lr, set "
                "optim.clip=1, or use training.precision=fp32, and begin again with another --out"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "seen": self.seen, "faults": self.faults, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.last = float(state["mean"]), float(state["last"])
        self.seen, self.faults = int(state["seen"]), int(state["faults"])


REASONS = ("", "time", "interrupted", "terminated")
"""Why a run may be stopped, the stronger the later."""


class Stop:
    """Turns Ctrl-C, SIGTERM, a time limit and the death of `torchrun` into a wish that the loop reads between steps.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self._wish = self._agreed = ""
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # elsewhere handlers cannot be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._wish == "interrupted":
            raise KeyboardInterrupt
        self._wish = "interrupted" if number == signal.SIGINT else "terminated"

    @property
    def reason(self) -> str:
        """One of `REASONS`; "" while nobody wants to stop."""
        return self._agreed or self._wish

    def wanted(self, world: World) -> bool:
        """Whether to stop after this step: where one process wants it all do, for the same reason."""
        if not self._wish and self.deadline is not None and time.monotonic() >= self.deadline:
            self._wish = "time"
        if self._launcher not in (
            None,
            os.getppid(),
        ):  # nobody would hear of us, and the next run finds us in its way
            self._wish = "terminated"
        self._agreed = REASONS[world.most(REASONS.index(self._wish))]
        return bool(self._agreed)


@contextmanager
def unechoed() -> Iterator[None]:
    """Within this, the terminal does not show Ctrl-C as ^C: at the end of a line that would break a progress bar."""
    if not _at_terminal():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, [*before[:3], before[3] & ~termios.ECHOCTL, *before[4:]])
    try:
        yield
    finally:
        if _at_terminal():
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _at_terminal() -> bool:
    """Whether the terminal is ours: one in the background would be halted if it changed it."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (
        AttributeError,
        OSError,
        ValueError,
    ):  # no input, one that is closed, or another session's terminal
        return False
