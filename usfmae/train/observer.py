"""What is seen of a run while it goes: log, progress, reconstruction grids, probes, and the closing figure."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from openus.console import err, progress
from usfmae.stream.index import Index, open_index
from usfmae.train.cost import cost_of, peak_flops
from usfmae.train.distributed import describe
from usfmae.train.log import RunLog
from usfmae.train.pictures import Gallery
from usfmae.train.probe import Probe
from usfmae.train.trainer import Trainer


class Observer:
    """Speaks for a run; only rank 0 writes and draws, but all processes make the same calls."""

    def __init__(self, trainer: Trainer, data: str | Path, run: Path, *, last: int, quiet: bool) -> None:
        self.trainer, self.run, self.last = trainer, run, last
        self.recipe, self.leads = trainer.recipe, trainer.world.leads
        self.quiet = quiet or not self.leads
        report = self.recipe.report
        self.log = self.gallery = self.probe = None
        if self.leads:
            if report.pictures and isinstance(trainer.index, Index):
                self.gallery = Gallery(trainer.index, self.recipe)
            if report.probe_set:
                self.probe = Probe(open_index(data, report.probe_set), self.recipe)
            config = {**self.recipe.to_dict(), "computed_on": describe(trainer.world)}
            self.log = RunLog(run, report, step=trainer.step, config=config, quiet=self.quiet)
        self.flops = cost_of(trainer.config).training
        self.peak = peak_flops(trainer.world.device)
        self._progress = progress(self.quiet, unit="images")

    def __enter__(self) -> Observer:
        size, trainer = self.recipe.training.batch_size, self.trainer
        if not self.quiet:
            self._announce()
        self.bar = self._progress.__enter__()
        self.task = self.bar.add_task("pretrain", total=self.last * size, completed=trainer.step * size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, tb)
        if self.log is not None:
            self.log.close(failed=error is not None)

    def _announce(self) -> None:
        trainer, size = self.trainer, self.recipe.training.batch_size
        count = sum(p.numel() for p in trainer.mae.parameters())
        at = f"from step {trainer.step:,} " if trainer.step else ""
        parts = -(-size // (trainer.world.size * trainer.feeder.micro_batch))
        cut = f" (in {parts} parts)" if parts > 1 else ""
        err.print(
            f"{self.recipe.name}: {count / 1e6:.1f} M parameters, {len(trainer.index.rows):,} images, {at}to step "
            f"{self.last:,} of {trainer.total_steps:,}, batch {size:,}{cut} on {trainer.world.size} x "
            f"{trainer.world.device}; {trainer.loader.tail_note}",
            style="dim", soft_wrap=True,
        )  # fmt: skip

    def after_step(self) -> None:
        """Move the bar."""
        self.bar.advance(self.task, self.recipe.training.batch_size)

    def line(self, rate: float) -> None:
        """Write what there is to say of the steps since the last line; `rate`: of the last step."""
        trainer = self.trainer
        values: dict[str, Any] = {
            "epoch": trainer.epoch,
            "samples": trainer.step * self.recipe.training.batch_size,
            **trainer.meter.summary(),
            "lr": rate,
            **trainer.clock.rates(),
        }
        done = values["images_per_second"] * self.flops
        values["tflops"] = float(f"{done / 1e12:.4g}")
        if self.peak is not None:
            values["mfu"] = round(done / (self.peak * trainer.world.size), 4)
        values["memory_gib"] = round(_peak_memory(trainer.world.device) / 2**30, 3)
        values["bad_samples"] = trainer.replaced()
        trainer.meter.reset()
        trainer.clock.reset()
        self.bar.update(self.task, description=f"loss {values['loss']:.4f}")
        self._write(values)

    def event(self, text: str) -> None:
        """Something out of the ordinary: on the screen and in the log."""
        self._write({"event": text})
        if not self.quiet:
            err.print(text, style="yellow", markup=False, soft_wrap=True)

    def checkpoint(self) -> None:
        """Paint the gallery with the network as it was just saved."""
        if self.recipe.report.pictures:
            network = self.trainer.plain()
            if self.gallery is not None:
                self.gallery.write(network, self.run, self.trainer.step)
            self.trainer.world.barrier()
            self.trainer.clock.reset()

    def epoch_ended(self) -> None:
        """Probe the features, where the recipe asks for it after this epoch."""
        report = self.recipe.report
        if not report.probe_set or round(self.trainer.epoch) % max(1, report.probe_every):
            return
        network = self.trainer.plain()
        if self.probe is not None:
            scores = self.probe.scores(network)
            self._write({"epoch": self.trainer.epoch, "probe": scores})
            if not self.quiet:
                err.print(
                    f"epoch {self.trainer.epoch:g}: balanced accuracy on {report.probe_set}: k-NN {scores['knn']:.3f}, "
                    f"linear {scores['linear']:.3f} (chance {scores['chance']:.3f})",
                    style="dim", soft_wrap=True,
                )  # fmt: skip
        self.trainer.world.barrier()
        self.trainer.clock.reset()

    def finished(self) -> None:
        """Draw the run's curves, write the page about it, and leave a mark where nothing is left to do."""
        if self.leads and self.trainer.step >= self.trainer.total_steps:
            (self.run / "done").touch()
        if self.leads and self.recipe.report.figure:
            from usfmae.train.figure import draw_run
            from usfmae.train.report import write_report

            world = self.trainer.world
            draw_run(self.run)
            write_report(self.run, {"computed on": describe(world)})

    def _write(self, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(self.trainer.step, values)


def _peak_memory(device: torch.device) -> int:
    """Most bytes that were taken so far: on the GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kB on Linux
