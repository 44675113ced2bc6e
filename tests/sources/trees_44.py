"""Miniature of source 44, whose clips lie one after another in one HDF5 file."""

from __future__ import annotations

import h5py
import numpy as np

from tests.sources.miniature import Expectation, Mini, Sample, blob, miniature, some


@miniature("thyroid-us-cineclip")
def thyroid_us_cineclip(mini: Mini) -> Expectation:
    lengths = {"129_": 11, "7_": 3, "203_": 2}
    facts = {"129_": ("0", "4", "left lobe"), "7_": ("1", "5", "isthmus"), "203_": ("0", "3", "")}
    samples, frames, owners, numbers = {}, [], [], []
    for clip, length in lengths.items():
        pictures = mini.frames(clip, length)
        histopathology, level, location = facts[clip]
        labels = {"histopathology": histopathology, "ti-rads": level}
        if location:
            labels["location"] = location
        member = f"dataset.hdf5/{clip}"
        samples[member] = Sample(some(pictures), labels, clip=member)
        # Numbers are text: "10" and "11" sort before "2" unless they are read as numbers.
        for number in sorted(range(length), key=lambda n: str(n + 1)):
            frames.append(pictures[number])
            owners.append(clip.encode())
            numbers.append(str(number + 1).encode())
    masks = [blob(f"cine/{n}") for n in range(len(frames))]
    mini.text("dataset.hdf5")
    with h5py.File(mini.root / "dataset.hdf5", "w") as file:
        file["annot_id"] = np.array(owners, "S4")
        file["frame_num"] = np.array(numbers, "S3")
        file.create_dataset("image", data=np.stack(frames), chunks=(1, *frames[0].shape), compression="gzip")
        file["mask"] = np.stack(masks)
    rows = [
        {
            "annot_id": clip,
            "age": 50,
            "sex": "F",
            "location": location,
            "ti-rads_level": level,
            "histopath_diagnosis": histopathology,
        }
        for clip, (histopathology, level, location) in facts.items()
    ]
    mini.table("metadata.csv", rows)
    return Expectation(samples, tables={"metadata.csv": "ti-rads_level"})
