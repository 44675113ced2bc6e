"""The pipelines that `loader.py` compares, each run as a child process that gives as many images as it is asked for.

`python -m benchmarks._pipelines NAME '{"corpus": ..., "workers": ...}'` prints "ready" once it is warm; each line
"N" on standard input makes it deliver N images and answer with one JSON line.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZE, BATCH = 224, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def reference_transforms() -> Callable[[Any], Any]:
    """Those of the reference MAE's pretraining (He et al., 2022)."""
    from torchvision import transforms as T

    crop = T.RandomResizedCrop(SIZE, scale=(0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC)
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


def webdataset(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """webdataset + Pillow + torchvision, as their documentation puts them together."""
    import webdataset as wds

    transform = reference_transforms()
    urls = sorted(str(path) for path in Path(corpus, "pretrain").glob("*.tar"))
    data = wds.WebDataset(urls, resampled=True, shardshuffle=True, nodesplitter=wds.split_by_node)
    data = data.shuffle(1000).decode("pilrgb").to_tuple("jpg").map_tuple(transform).batched(BATCH)
    for (images,) in wds.WebLoader(data, batch_size=None, num_workers=workers):
        yield len(images)


def litdata(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """litdata's own chunks of the same JPEG bytes, the same transforms."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    data, count = _encoded(corpus)
    folder = f"{scratch}/litdata"
    optimize(
        fn=_itself, inputs=[data(i) for i in range(count)], output_dir=folder, chunk_bytes="16MB", num_workers=1,
        verbose=False,
    )  # fmt: skip
    pictures = StreamingDataset(folder, shuffle=True, transform=_Decoded())
    while True:
        for images in StreamingDataLoader(
            pictures, batch_size=BATCH, num_workers=workers, persistent_workers=True
        ):
            yield len(images)


class _Decoded:
    """JPEG bytes to what the reference's transforms make of them; can be sent to a worker."""

    def __init__(self) -> None:
        self.transform = reference_transforms()

    def __call__(self, data: bytes, *_: Any) -> Any:
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(data)).convert("RGB"))


def _itself(value: bytes) -> bytes:
    return value


def streaming(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """MosaicML streaming's MDS of the same JPEG bytes, the same transforms."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    data, count = _encoded(corpus)
    folder = f"{scratch}/mds"
    with MDSWriter(out=folder, columns={"jpg": "bytes"}) as out:
        for i in range(count):
            out.write({"jpg": data(i)})
    decoded = _Decoded()

    class Pictures(StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            return decoded(super().__getitem__(index)["jpg"])

    pictures = Pictures(local=folder, shuffle=True, batch_size=BATCH)
    while True:
        for images in DataLoader(pictures, batch_size=BATCH, num_workers=workers, persistent_workers=True):
            yield len(images)


def _encoded(corpus: str) -> tuple[Callable[[int], bytes], int]:
    from usfmae.stream.index import open_index

    index = open_index(corpus)
    return index.read, index.count


def decode_only(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """Nothing but reading the same bytes and decoding them to grey: the ceiling of any loader on these cores."""
    from usfmae.stream.index import open_index

    count = open_index(corpus).count
    with multiprocessing.get_context("spawn").Pool(workers, _open, (corpus,)) as pool:
        rows = (
            range(start, min(start + BATCH, count)) for _ in iter(int, 1) for start in range(0, count, BATCH)
        )
        ahead = [pool.apply_async(_decode, (next(rows),)) for _ in range(2 * workers)]
        while True:
            yield ahead.pop(0).get()
            ahead.append(pool.apply_async(_decode, (next(rows),)))


def _open(corpus: str) -> None:
    from usfmae.stream.index import open_index
    from usfmae.stream.reader import ShardReader

    global _index, _reader
    _index = open_index(corpus)
    _reader = ShardReader(_index.shard_info)


def _decode(rows: range) -> int:
    import simplejpeg

    for i in rows:
        data = _reader.read(int(_index.shard_of[i]), int(_index.offset[i]), int(_index.size[i]))
        simplejpeg.decode_jpeg(data, "GRAY")
    return len(rows)


def _ours(corpus: str, workers: int, cached: bool, finish: bool, interpolation: str) -> Iterator[int]:
    import torch

    from usfmae.stream.augment import Augment
    from usfmae.stream.decode import decode_side_of
    from usfmae.stream.index import open_index
    from usfmae.stream.loader import Loader
    from usfmae.stream.pixels import open_pixels

    torch.set_num_threads(1)
    index = open_index(corpus)
    pixels = open_pixels(index, decode_side_of(SIZE), "memory") if cached else None
    augment = Augment(mean=0.2, std=0.2)
    loader = Loader(
        index,
        batch_size=BATCH,
        size=SIZE,
        seed=0,
        workers=workers,
        pixels=pixels,
        interpolation=interpolation,
    )
    for batch in loader:
        if pixels is not None and batch.cursor.epoch < 1:
            continue  # the epoch that fills the cache
        if finish:
            augment(batch.images, batch.seeds)
        yield len(batch.images)


def ours(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """This loader, crop and resize by bicubic interpolation, flip and normalisation to float32 included."""
    return _ours(corpus, workers, cached=False, finish=True, interpolation="cubic")


def ours_linear(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """The same with bilinear interpolation, the default."""
    return _ours(corpus, workers, cached=False, finish=True, interpolation="linear")


def ours_uint8(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """The same handing over uint8 views, as it does to a GPU."""
    return _ours(corpus, workers, cached=False, finish=False, interpolation="linear")


def ours_cached(corpus: str, workers: int, scratch: str) -> Iterator[int]:
    """uint8 views out of the cache of decoded pictures."""
    return _ours(corpus, workers, cached=True, finish=False, interpolation="linear")


PIPELINES = {
    f.__name__: f
    for f in (webdataset, litdata, streaming, decode_only, ours, ours_linear, ours_uint8, ours_cached)
}


def _family() -> list[int]:
    """This process and all its descendants, from /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = [os.getpid()]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


def usage() -> dict[str, float]:
    """CPU seconds of the family so far, and the greatest private + shared-out memory (PSS) of a child, in MB."""
    ticks, memory = 0, 0.0
    for pid in _family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own and those of children that have ended
            if pid != os.getpid():
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                memory = max(memory, int(rollup.split("Pss:")[1].split()[0]) / 1e3)
        except (OSError, IndexError):
            continue
    return {"cpu": ticks / os.sysconf("SC_CLK_TCK"), "pss": memory}


def main() -> None:
    """Serve one pipeline until the input ends."""
    images = PIPELINES[sys.argv[1]](**json.loads(sys.argv[2]))
    left = 0

    def deliver(count: int) -> None:
        nonlocal left
        while left < count:
            left += next(images)
        left -= count

    deliver(16 * BATCH)
    print("ready", flush=True)
    for line in sys.stdin:
        before, start = usage(), time.perf_counter()
        deliver(int(line))
        wall, after = time.perf_counter() - start, usage()
        print(
            json.dumps({"wall": wall, "cpu": after["cpu"] - before["cpu"], "pss": after["pss"]}), flush=True
        )


if __name__ == "__main__":
    main()
