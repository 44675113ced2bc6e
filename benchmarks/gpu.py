"""One command for a GPU, in under nine minutes: how near the pretrainer comes to what the device can do.

    python benchmarks/gpu.py [--minutes 8.5] [--tiny] [--data CORPUS] [--only base/kernels loader] [--out results.json]

Ceilings first (a copy on the device, a bfloat16 matrix product), then for ViT-S, B and L a training step in bfloat16
with fused AdamW on images that are already there: images/s, share of the device's peak (MFU), peak memory, compiled
and not, full and cross-attention decoder, and where a step's time goes; transformers' ViTMAE beside it; and ViT-B fed
by our loader from shards on disk, with the share of time it waited for data. What no longer fits into the time is left
out, and said.
`--tiny` runs every part at toy size on any device, to show that it works.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._corpus import make
from benchmarks._kernels import clock_and_power, milliseconds_by_kind
from benchmarks._steps import Contestant, config_of, machine, ours, peer, same_loss, settle
from usfmae.model import blocks
from usfmae.model.mae import MAEConfig
from usfmae.train.cost import cost_of, peak_flops
from usfmae.train.data import Reading
from usfmae.train.distributed import pick_device
from usfmae.train.fit import largest_that_fits
from usfmae.train.log import read_log
from usfmae.train.loop import pretrain
from usfmae.train.recipe import load_recipe

GOALS = {"mfu_base": 0.45, "mfu_large": 0.50, "data_wait": 0.02, "over_peer": 2.5}
BATCH = {"tiny": 8, "small": 1024, "base": 1024, "large": 512}
OURS = ("full", "kernels", "cross")  # kernels: full, with our kernels (as cross); full: with PyTorch's
EXPECTED = {"eager": 8.0, "compiled": 40.0}  # seconds a measurement takes, start included


@dataclass
class Result:
    """One measured contestant. MFU: of the data sheet's dense bfloat16 peak; None where that is not known."""

    size: str
    who: str
    compiled: bool
    batch: int
    images_per_second: float
    mfu: float | None
    of_product: float  # share of the matrix product measured here
    memory_gib: float
    milliseconds: dict[str, float]  # of a step, by kind of kernel
    sustained: dict[str, float]  # clock and power


@dataclass
class Session:
    """What all measurements share."""

    device: torch.device
    deadline: float
    steps: int
    copy: float = 0.0
    product: float = 0.0

    def left(self) -> float:
        return self.deadline - time.monotonic()


def ceilings(session: Session, tiny: bool) -> None:
    """Bytes a second of a copy on the device (read and written both counted), operations a second of a product."""
    count, side, dtype = (1 << 20, 256, torch.float32) if tiny else (1 << 30, 8192, torch.bfloat16)
    a = torch.empty(count, dtype=torch.uint8, device=session.device)
    b = torch.empty_like(a)
    session.copy = 2 * count / best_time(session, lambda: b.copy_(a))
    x = torch.randn(side, side, device=session.device, dtype=dtype)
    y = torch.randn(side, side, device=session.device, dtype=dtype)
    session.product = 2 * side**3 / best_time(session, lambda: x @ y)


def best_time(session: Session, work: Callable[[], object]) -> float:
    """The best of five averages over several calls, in seconds."""
    for _ in range(3):
        work()
    settle(session.device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(session.steps):
            work()
        settle(session.device)
        best = min(best, (time.perf_counter() - began) / session.steps)
    return best


def measure(session: Session, size: str, who: str, compiled: bool) -> Result:
    """Train on images that are there already: warm up, then the mean over some steps."""
    config = config_of(size) if who != "cross" else config_of(size, decoder="cross", predict_ratio=1 / 3)
    entrant = build(who, config, session.device, compiled)
    shape = (config.in_chans, config.img_size, config.img_size)

    def trial(batch: int) -> None:
        entrant.time(torch.randn(batch, *shape, device=session.device), True)

    most = BATCH[size] // (
        1 if who in OURS else 2
    )  # the peer keeps more in memory, and gains nothing from more
    batch = largest_that_fits(most, trial) if session.device.type == "cuda" else most
    images = torch.randn(batch, *shape, device=session.device)
    for _ in range(3):
        entrant.time(images, True)
    if session.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(session.device)
    seconds, _ = entrant.time(images, True, session.steps)
    memory = torch.cuda.max_memory_allocated(session.device) / 2**30 if session.device.type == "cuda" else 0.0
    kinds, sustained = {}, {}
    if session.device.type == "cuda":
        kinds = milliseconds_by_kind(lambda: entrant.step(images, True))
        sustained = clock_and_power(lambda: entrant.step(images, True), session.steps)
    work = cost_of(config).training * batch / seconds  # the peer is credited with our arithmetic, not its own
    peak = peak_flops(session.device)
    return Result(
        size, who, compiled, batch, round(batch / seconds, 1), None if peak is None else round(work / peak, 4),
        round(work / session.product, 4), round(memory, 2), kinds, sustained,
    )  # fmt: skip


def build(who: str, config: MAEConfig, device: torch.device, compiled: bool) -> Contestant:
    """Ours at bf16-residual; `peer` is transformers at its best, `reference` its plain form."""
    blocks.KERNELS = "auto" if who in ("kernels", "cross") else "torch"
    if who in OURS:
        return ours(who, config, device, compiled, narrow=True)
    return peer(who, config, device, compiled, best=who == "peer")


def fed(session: Session, tiny: bool, workers: int, data: Path | None) -> dict[str, float] | None:
    """Pretrain ViT-B from shards on disk through the loader, pictures kept decoded; the log's last lines.

    None where the time ended before the first steps.
    """
    batch = 8 if tiny else BATCH["base"]
    with tempfile.TemporaryDirectory() as folder:
        corpus = data or Path(folder) / "corpus"
        if data is None:
            make(corpus, 48 if tiny else 2048, side=64 if tiny else 256)
        changes = [
            "training.epochs=1000", f"training.most_images={batch * (12 if tiny else 96)}",
            f"training.batch_size={batch}", "report.pictures=0",
            "report.figure=false", "report.tensorboard=false", f"report.log_every={2 if tiny else 8}",
            "report.save_every=100000",
            f"training.compile={str(not tiny).lower()}", "objective.target=normalised",
        ]  # fmt: skip
        if not tiny:
            whole = {"size": "base", "embed_dim": 0, "depth": 0, "num_heads": 0, "img_size": 224, "patch_size": 16,
                     "decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16}  # fmt: skip
            changes += [f"model.{name}={value}" for name, value in whole.items()] + [
                "training.precision=bf16-residual"
            ]
        recipe = load_recipe("demo", changes)
        pretrain(
            corpus, recipe, Path(folder) / "run", reading=Reading(workers=workers, decoded="memory"), quiet=True,
            device=str(session.device), max_time=max(20.0, session.left() - 20),
        )  # fmt: skip
        lines = [line for line in read_log(Path(folder) / "run") if "loss" in line]
    if len(lines) < 2:
        return None  # stopped before it was at work
    settled = lines[len(lines) // 2 :]  # by then everything is decoded and compiled
    rate = sum(line["images_per_second"] for line in settled) / len(settled)
    wait = sum(line["data_wait"] for line in settled) / len(settled)
    return {"images_per_second": round(rate, 1), "data_wait": round(wait, 5), "workers": workers}


def schedule(tiny: bool) -> list[tuple[str, str, bool]]:
    """What to measure, the most telling first."""
    if tiny:
        return [("tiny", who, False) for who in ("full", "cross", "peer", "reference")]
    return [
        ("base", "peer", False), ("base", "reference", False), ("base", "kernels", True), ("large", "kernels", True),
        ("base", "cross", True), ("base", "full", True), ("base", "peer", True), ("base", "full", False),
        ("large", "full", True), ("small", "full", True),
        ("large", "peer", False), ("large", "cross", False), ("small", "peer", False), ("small", "cross", False),
    ]  # fmt: skip


def ratios_of(results: list[Result], loader: dict[str, float] | None) -> dict[str, float]:
    """The figures the goals speak of."""
    best: dict[tuple[str, str], Result] = {}
    for result in results:
        known = best.get((result.size, result.who))
        if known is None or result.images_per_second > known.images_per_second:
            best[result.size, result.who] = result
    found: dict[str, float] = {}
    mine: dict[str, Result] = {}  # with the full decoder and the faster attention
    for size in ("base", "large", "tiny"):
        forms = [best[size, who] for who in ("full", "kernels") if (size, who) in best]
        if forms:
            mine[size] = max(forms, key=lambda form: form.images_per_second)
            if mine[size].mfu is not None:
                found[f"mfu_{size}"] = mine[size].mfu
    size = "base" if "base" in mine else "tiny"
    for who in ("peer", "reference"):
        if (size, who) in best and size in mine:
            other = best[size, who]
            found[f"over_{who}"] = round(mine[size].images_per_second / other.images_per_second, 3)
    if loader is not None:
        found["data_wait"] = loader["data_wait"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument(
        "--only", nargs="+", metavar="SIZE/WHO", help="these rows alone; `loader` is the loader's"
    )
    parser.add_argument("--data", type=Path, help="corpus to feed from (default: pictures made for it)")
    parser.add_argument("--out", type=Path, help="write the results as JSON here too")
    options = parser.parse_args()
    began = time.monotonic()
    device = pick_device(options.device)
    if device.type == "cpu" and not options.tiny:
        raise SystemExit("no GPU here: run it where one is, or with --tiny to see that it works")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    session = Session(device, began + 60 * options.minutes, 2 if options.tiny else 10)
    ceilings(session, options.tiny)
    apart = same_loss(config_of("tiny"), device)
    print(f"{machine(device)}\ncopy on the device {session.copy / 1e9:,.0f} GB/s, product "
          f"{session.product / 1e12:,.1f} TFLOP/s; our loss and the peer's differ by {apart:.1e}\n")  # fmt: skip
    print(
        f"{'size':<7}{'who':<11}{'form':<10}{'batch':>6}{'images/s':>10}{'MFU':>8}{'of product':>12}{'GiB':>7}"
    )

    results: list[Result] = []
    skipped: list[str] = []
    loader: dict[str, float] | None = None

    def report() -> str:
        """All there is so far as one JSON line, also written to --out: what was measured outlives a cut."""
        ratios = ratios_of(results, loader)
        line = {
            "name": "gpu", "date": time.strftime("%Y-%m-%d"), "machine": machine(device),
            "copy_gb_s": round(session.copy / 1e9, 1), "product_tflop_s": round(session.product / 1e12, 2),
            "results": [asdict(r) for r in results], "loader": loader, "left_out": skipped,
            "seconds": round(time.monotonic() - began, 1), "ratios": ratios, "goals": GOALS,
            "holds": all(name in ratios for name in GOALS)
            and all(ratios[n] <= g if n == "data_wait" else ratios[n] >= g for n, g in GOALS.items()),
        }  # fmt: skip
        text = json.dumps(line)
        if options.out is not None:
            options.out.write_text(text + "\n")
        return text

    only = None if options.only is None else set(options.only)
    for number, (size, who, compiled) in enumerate(schedule(options.tiny)):
        if number == (3 if options.tiny else 4) and (
            only is None or "loader" in only
        ):  # after what the goals speak of
            loader = fed(session, options.tiny, 0 if options.tiny else options.workers, options.data)
            if loader is None:
                skipped.append("the loader")
            else:
                rate, wait = f"{loader['images_per_second']:,.1f} images/s", f"{loader['data_wait']:.2%}"
                print(f"        fed by the loader: {rate}, waiting {wait} of the time", flush=True)
        if only is not None and f"{size}/{who}" not in only:
            continue
        form = "compiled" if compiled else "eager"
        if session.left() < EXPECTED[form]:
            skipped.append(f"{size} {who} {form}")
            continue
        result = measure(session, size, who, compiled)
        results.append(result)
        mfu = "-" if result.mfu is None else f"{result.mfu:.1%}"
        print(f"{size:<7}{who:<11}{form:<10}{result.batch:>6}{result.images_per_second:>10,.1f}{mfu:>8}"
              f"{result.of_product:>12.1%}{result.memory_gib:>7.1f}", flush=True)  # fmt: skip
        if result.milliseconds:
            print(" " * 10 + ", ".join(f"{kind} {ms:g}" for kind, ms in result.milliseconds.items())
                  + f" ms; {', '.join(f'{name} {value:g}' for name, value in result.sustained.items())}")  # fmt: skip
        report()
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if skipped:
        print(f"left out for want of time: {', '.join(skipped)}")

    text = report()
    print("\n" + text)


if __name__ == "__main__":
    main()
