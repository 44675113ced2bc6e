"""HDF5, MATLAB and NumPy files written by their own libraries: the right array, the right axes, nothing unpickled."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from openus.decode import DecodeLimits
from openus.manifest import FramePolicy
from tests.decode.test_image import colour, frames, media, reason, speckle


def stack(count: int = 6) -> NDArray[np.uint8]:
    return np.stack([speckle(seed=seed) for seed in range(count)])


def npy(values: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, **options)
    return out.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def hdf5(**arrays: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(
                name.replace("__", "/"), data=values, compression="gzip" if np.ndim(values) else None
            )
    return out.getvalue()


def mat(**arrays: Any) -> bytes:
    out = io.BytesIO()
    savemat(out, arrays, do_compression=True)
    return out.getvalue()


def mat73(**arrays: NDArray[Any]) -> bytes:
    """What MATLAB 7.3 writes: HDF5 behind 512 bytes of header, axes reversed."""
    out = io.BytesIO()
    with h5py.File(out, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values.T)
    data = bytearray(out.getvalue())
    data[:128] = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM"
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (npy(stack()), "npy"),
        (npy(np.asfortranarray(stack())), "npy"),
        (npy(stack()[..., None]), "npy"),
        (npz(images=stack()), "npz"),
        (hdf5(images=stack()), "hdf5"),
        (hdf5(patient__view__frames=stack()), "hdf5"),
        (mat(images=np.moveaxis(stack(), 0, 2)), "mat"),
        (mat73(images=np.moveaxis(stack(), 0, 2)), "hdf5"),
        (mat73(images=np.moveaxis(stack(), 0, 2)[:, :, None]), "hdf5"),
    ],
    # Not the bytes: some hold the second they were written in, and every worker must name the tests alike.
    ids=["npy", "fortran", "channel", "npz", "hdf5", "group", "mat", "mat73", "mat73-channel"],
)
def test_stack_of_grey_pictures(data: bytes, kind: str) -> None:
    opened = media(data)
    assert (opened.format, opened.kind, opened.count) == (kind, "frame", 6)
    for frame in opened.frames():
        np.testing.assert_array_equal(frame.pixels, stack()[frame.index])
        assert frame.pixels.flags.c_contiguous and frame.pixels.dtype == np.uint8
    assert [frame.index for frame in frames(data, policy=FramePolicy(stride=2, cap=2))] == [0, 4]


@pytest.mark.parametrize(
    "make", [npy, lambda v: npz(a=v), lambda v: hdf5(a=v), lambda v: mat(a=v), lambda v: mat73(a=v)]
)
def test_single_pictures(make: Any) -> None:
    for values in (speckle(), colour()):
        data = make(values)
        (frame,) = frames(data)
        np.testing.assert_array_equal(frame.pixels, values)
        assert media(data).kind == "image"


def test_colour_stacks() -> None:
    values = np.stack([colour(), colour()[::-1]])
    last = np.moveaxis(values, 0, 3)
    for data in (npy(values), npz(a=values), hdf5(a=values), mat(a=last), mat73(a=last)):
        for frame in frames(data):
            np.testing.assert_array_equal(frame.pixels, values[frame.index])
    rgba = np.concatenate([values, np.full((*values.shape[:3], 1), 255, np.uint8)], axis=3)
    np.testing.assert_array_equal(frames(npy(rgba))[1].pixels, values[1])


def test_which_array() -> None:
    masks = np.ones((9, 60, 81), np.uint8)
    arrays = {
        "image": stack(),
        "mask": masks,
        "labels": np.zeros((9, 70, 90), np.uint8),
        "id": np.arange(10**5),
    }
    for make in (npz, hdf5):
        np.testing.assert_array_equal(frames(make(**arrays))[2].pixels, stack()[2])
        chosen = frames(make(**arrays), array="mask")
        assert len(chosen) == 9 and (chosen[0].pixels == 1).all()
        found, message = reason(lambda make=make: media(make(**arrays), array="imag"))
        assert found == "unsupported" and "image" in message
    big_flat = {"a_table": np.zeros((500, 900)), "b": stack(2)}
    assert len(frames(npz(**big_flat))) == 2, "a stack goes before a larger table"
    assert len(frames(mat(mask=stack(8), us=np.moveaxis(stack(5), 0, 2)))) == 5
    assert len(frames(hdf5(gt=stack(5)))) == 5, "a mask is read where there is nothing else"


def test_deep_values_by_the_range_of_the_array() -> None:
    values = stack(5).astype(np.float32) * np.array([1, 7, 30, 2, 9], np.float32)[:, None, None] - 50
    low, high = values.min(), values.max()
    for data in (npy(values), npz(a=values), hdf5(a=values), mat(a=np.moveaxis(values, 0, 2))):
        for frame in frames(data, policy=FramePolicy(stride=2)):
            assert np.abs(frame.pixels - (values[frame.index] - low) * (255 / (high - low))).max() <= 0.51
    logical = npy(stack(2) > 60)
    np.testing.assert_array_equal(frames(logical)[1].pixels, (stack(2)[1] > 60) * np.uint8(255))


MARK = Path(tempfile.gettempdir()) / f"openus-unpickled-{os.getpid()}"


class Payload:
    """What a hostile pickle would do: run code when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (MARK,)


def test_nothing_is_unpickled() -> None:
    MARK.unlink(missing_ok=True)
    hostile = np.array([Payload()], dtype=object)
    found, message = reason(lambda: frames(npy(hostile, allow_pickle=True)))
    assert found == "unsupported" and "pickled" in message
    assert reason(lambda: frames(npz(a=hostile)))[0] == "unsupported"
    mixed = npz(a=hostile, b=stack(2))
    assert len(frames(mixed)) == 2
    assert reason(lambda: frames(mixed, array="a"))[0] == "unsupported"
    assert reason(lambda: media(pickle.dumps(Payload()), "x.npy"))[0] == "not-an-image"
    assert not MARK.exists()


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    secret.write_bytes(hdf5(images=stack(9)))
    (tmp_path / "secret.raw").write_bytes(stack(9).tobytes())
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "images")
        file.create_dataset(
            "outside", shape=(9, 60, 81), dtype="u1", external=[(str(tmp_path / "secret.raw"), 0, 10**6)]
        )
        layout = h5py.VirtualLayout((9, 60, 81), "u1")
        layout[:] = h5py.VirtualSource(str(secret), "images", (9, 60, 81))
        file.create_virtual_dataset("virtual", layout)
    assert reason(lambda: media(out.getvalue()))[0] == "unsupported"
    assert reason(lambda: media(out.getvalue(), array="outside"))[0] == "unsupported"
    with h5py.File(out, "a") as file:
        file["own"] = stack(2)
    assert len(frames(out.getvalue())) == 2


def test_shapes_and_limits() -> None:
    assert reason(lambda: frames(npy(np.zeros((2, 3, 4, 5, 6)))))[0] == "unsupported"
    assert reason(lambda: frames(npy(np.zeros((2, 3, 40, 50)))))[0] == "unsupported"
    assert reason(lambda: frames(hdf5(a=np.arange(10))))[0] == "unsupported"
    assert reason(lambda: frames(npy(stack()), limits=DecodeLimits(frames=5)))[0] == "too-large"
    assert reason(lambda: frames(npy(stack()), limits=DecodeLimits(pixels=4000)))[0] == "too-large"
    assert (
        reason(lambda: frames(npz(a=np.zeros((90, 200, 200), "u1")), limits=DecodeLimits(spool=10**6)))[0]
        == "too-large"
    )
    assert reason(lambda: frames(mat(a=stack()), limits=DecodeLimits(memory=10**5)))[0] == "too-large"
    header = npy(stack(1))[:128].replace(b"(1, 60, 81)", b"(9**9,6,8)")
    assert reason(lambda: frames(header))[0] in ("corrupt", "truncated")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_truncated(share: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (6, 60, 81)).astype(np.uint8)
    for data in (npy(values), npz(a=values), hdf5(a=values), mat(a=values), mat73(a=values)):
        found, message = reason(lambda data=data: frames(data[: int(len(data) * share)], name="a"))
        assert found in ("truncated", "corrupt") and message.startswith("a: ")
    assert reason(lambda: frames(npy(values)[:-1]))[0] == "truncated"
    assert reason(lambda: frames(hdf5(a=values)[:-1]))[0] == "truncated"


def test_damaged_arrays_do_not_leak_a_foreign_error() -> None:
    rng = np.random.default_rng(5)
    for data in (npy(stack(2)), npz(a=stack(2)), hdf5(a=stack(2)), mat(a=stack(2))):
        for _ in range(25):
            damaged = bytearray(data)
            for at in rng.integers(0, min(len(data), 1500), 6):
                damaged[at] = int(rng.integers(256))
            try:
                frames(
                    bytes(damaged),
                    limits=DecodeLimits(pixels=1 << 20, frames=500, memory=1 << 24, spool=1 << 24),
                )
            except Exception as error:
                assert type(error).__name__ == "DecodeError", repr(error)
