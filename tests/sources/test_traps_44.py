"""Traps of the Thyroid Ultrasound Cine-clip file, whose clips lie one after another in one HDF5 file."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import SourceError
from openus.select import select
from tests.sources.conftest import Make


@pytest.mark.parametrize("key", ["image", "annot_id", "frame_num"])
def test_a_missing_array_is_named(key: str, made: Make, tmp_path: Path) -> None:
    root, _ = made("thyroid-us-cineclip")
    shutil.copytree(root, tmp_path / "copy")
    with h5py.File(tmp_path / "copy" / "dataset.hdf5", "a") as file:
        file.move(key, "renamed")
    tree = Tree([tmp_path / "copy"])
    with pytest.raises(SourceError, match=rf"thyroid-us-cineclip: dataset\.hdf5: no array '{key}' in it"):
        select(Catalogue().source("thyroid-us-cineclip"), tree.entries(), tree.open)


def test_a_cut_file_is_named(made: Make, tmp_path: Path) -> None:
    root, _ = made("thyroid-us-cineclip")
    shutil.copytree(root, tmp_path / "copy")
    place = tmp_path / "copy" / "dataset.hdf5"
    place.write_bytes(place.read_bytes()[:500])
    tree = Tree([tmp_path / "copy"])
    with pytest.raises(SourceError, match=r"thyroid-us-cineclip: dataset\.hdf5: (truncated|corrupt)"):
        select(Catalogue().source("thyroid-us-cineclip"), tree.entries(), tree.open)
