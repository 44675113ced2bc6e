"""`usfmae predict`: what a fine-tuned model says of any file `openus` decodes, prepared as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from openus import console
from openus.errors import DecodeError
from openus.manifest import FramePolicy
from usfmae.tasks.data.files import Grey, Prepared, message, open_file
from usfmae.tasks.network.finetuned import Model, load_model
from usfmae.tasks.network.prediction import Prediction
from usfmae.tasks.report.plots import predictions_png


def predict(
    model: str | Path,
    files: Sequence[Path],
    *,
    stride: int = 1,
    max_frames: int | None = None,
    batch_size: int = 32,
    device: str = "auto",
    picture: Path | None = None,
    quiet: bool = False,
) -> list[Prediction]:
    """Score each file; one that cannot be read gets its `error` and does not stop the others.

    Frames stream through in batches: memory does not grow with the length of a clip.
    """
    loaded = load_model(model, device)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)  # now: nothing is lost for want of a folder
    policy = FramePolicy(stride=stride, cap=max_frames)
    with console.progress(quiet or len(files) < 2, "files") as bar:
        results = [
            _predict_file(loaded, path, policy, batch_size, picture is not None)
            for path in bar.track(files, description="predict")
        ]
    if picture is not None:
        predictions_png(picture, results)
    return results


def _predict_file(model: Model, path: Path, policy: FramePolicy, batch: int, keep: bool) -> Prediction:
    result = Prediction(str(path), model.classes, model.kind)
    try:
        with open_file(path, policy, model.looks) as (media, frames):
            result.format, result.kind = media.format, media.kind
            for indices, images in _batches(frames, batch, result):
                result.frames += indices
                values, masks = model.answer(images)
                result.frame_values += values.tolist()
                if keep and result.image is None:
                    middle = len(images) // 2
                    result.image, result.mask = images[middle], None if masks is None else masks[middle]
    except (DecodeError, OSError) as error:
        result.error = message(path, error)
    if not result.error and not result.frames:
        reasons = sorted({reason for _, reason in result.refused})
        result.error = f"{path}: no frame left to score ({', '.join(reasons) or 'the file holds none'})"
    return result


def _batches(
    frames: Iterator[Prepared], batch: int, result: Prediction
) -> Iterator[tuple[list[int], list[Grey]]]:
    indices: list[int] = []
    images: list[Grey] = []
    for frame in frames:
        if frame.image is None:
            result.refused.append((frame.index, frame.reason))
            continue
        indices.append(frame.index)
        images.append(frame.image)
        if len(images) == batch:
            yield indices, images
            indices, images = [], []
    if images:
        yield indices, images
