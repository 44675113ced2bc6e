"""Where scalars go besides the screen: files that outlast a full disk, TensorBoard, Weights & Biases."""

from __future__ import annotations

import io
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from openus.console import err
from openus.errors import MissingExtraError, OpenUSError


class Appended:
    """A file that whole records are added to.

    A disk that takes no more ends no run: what it refuses is kept in memory and written once there is room. Both that
    it refused, and what was never written in the end, is said.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._end = self._file.tell()
        self._waiting, self._refused = bytearray(), False

    def write(self, record: bytes) -> None:
        """Add a record, after those that still wait."""
        self._waiting += record
        try:
            done = 0
            while done < len(self._waiting):
                done += self._file.write(self._waiting[done:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)  # no record is left in part
            if not self._refused:
                self._say(
                    f"cannot be written now ({error.strerror}); the run goes on, and its lines wait for room"
                )
            self._refused = True
        else:
            self._end += done
            self._waiting.clear()
            self._refused = False

    def close(self) -> None:
        """Write what waits, if there is room now."""
        self.write(b"")
        if self._waiting:
            self._say(f"its last {len(self._waiting):,} bytes found no room and are lost")
        self._file.close()

    def _say(self, what: str) -> None:
        err.print(f"{self.path}: {what}", style="yellow", markup=False, soft_wrap=True)


class TensorBoard:
    """An event file of scalars; written here, as the writer of the `tensorboard` package dies of a full disk.

    After a resume at `step`, TensorBoard forgets what earlier files hold of later steps.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._packed = event_pb2.Event, summary_pb2.Summary, RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = Appended(folder / name)
        self._add(file_version="brain.Event:2")
        if step:
            self._add(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The scalars of a step."""
        if values:
            each = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._add(step=step, summary=self._summary(value=each))

    def _add(self, **fields: Any) -> None:
        packed = io.BytesIO()
        self._packed(packed).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._file.write(packed.getvalue())

    def close(self) -> None:
        self._file.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one whenever the run in `run` goes on.

    It is sent the recipe and the scalars. The command line stays here, as the address of data may hold a signature; so
    do the console's text, code, and what git knows.

    Raises `MissingExtraError`, and `OpenUSError` where it cannot begin.
    """

    def __init__(self, project: str, run: Path, config: Mapping[str, Any], *, quiet: bool) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb", "report.wandb") from error
        self._lost = False
        settings = wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_meta=True)
        if quiet:
            settings.silent = True
        try:
            self._run = wandb.init(
                project=project, id=_identity(run), name=run.name, dir=str(run), config=dict(config), resume="allow",
                settings=settings,
            )  # fmt: skip
        except wandb.errors.Error as error:
            why = str(error).strip().split("\n")[0]
            raise OpenUSError(
                f"report.wandb={project}: Weights & Biases cannot begin ({why}); log in with 'wandb login', set "
                "WANDB_MODE=offline and send the run later with 'wandb sync', or leave report.wandb empty"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The scalars of a step; those of steps it knows already, from before a crash, are not sent again."""
        if values and step >= self._run.starting_step:
            self._try(lambda: self._run.log(dict(values), step=step))

    def close(self, failed: bool) -> None:
        """Wait until all is sent."""
        self._try(lambda: self._run.finish(exit_code=int(failed)))

    def _try(self, action: Callable[[], None]) -> None:
        """The client works in a process of its own, which may die; training does not end with it."""
        if self._lost:
            return
        try:
            action()
        except Exception as error:  # of many kinds, not all of them its own
            self._lost = True
            why = str(error).strip().split("\n")[0] or type(error).__name__
            err.print(
                f"Weights & Biases hears no more of this run ({why}); it goes on", style="yellow", markup=False,
                soft_wrap=True,
            )  # fmt: skip


def _identity(run: Path) -> str:
    """The name by which Weights & Biases knows this run again when it goes on."""
    path = run / "wandb.id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()
