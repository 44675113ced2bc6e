"""The look-up tables of DICOM: VOI LUT (PS3.3 C.11.2.1.1) and palettes of colours (C.7.6.3.1.5, C.7.6.3.1.6).

`pydicom.pixels.processing` counts in the type of a table's entries, so that one of more than 256 entries of 8 bits
comes out black; these count in whole numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut

from openus.decode.frame import Pixels
from openus.decode.grey import Scale


def apply_voi(real: NDArray[np.float64], ds: pydicom.Dataset) -> Pixels:
    """Values after the modality LUT, [H, W], through the first table of the VOI LUT sequence: uint8 [H, W]."""
    item = ds.VOILUTSequence[0]
    entries, first, bits = (int(n) for n in item.LUTDescriptor)
    table = _table(item.LUTData, entries, ds)
    return Scale(0.0, float(2**bits - 1))(_look_up(table, first, real))


def apply_palette(values: NDArray[Any], ds: pydicom.Dataset) -> Pixels:
    """Stored values [H, W] through the palette: uint8 [H, W, 3].

    Entries are of 8 or 16 bits; those that never exceed 255 are of 8 bits, whatever the header calls them.
    """
    if "RedPaletteColorLookupTableData" not in ds:  # in segments
        colours = apply_color_lut(values, ds)[..., :3]
        return colours if colours.dtype == np.uint8 else np.asarray(colours >> 8, np.uint8)
    entries, first, _ = (int(n) for n in ds.RedPaletteColorLookupTableDescriptor)
    names = (f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue"))
    tables = np.stack([_table(ds[name].value, entries, ds) for name in names], axis=-1)
    return _look_up(np.asarray(tables >> (8 if tables.max() > 255 else 0), np.uint8), first, values)


def _table(data: Any, entries: int, ds: pydicom.Dataset) -> NDArray[np.uint16]:
    """The entries of a table: numbers, or bytes with one or two of them an entry."""
    entries = entries or 1 << 16
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        order = "<" if ds.original_encoding[1] else ">"
        return np.frombuffer(data, f"{order}u2" if wide else "u1", entries).astype(np.uint16)
    return np.asarray(data, np.uint16)


def _look_up(table: NDArray[Any], first: int, values: NDArray[Any]) -> NDArray[Any]:
    """Values before the first entry get the first, those beyond the last the last."""
    places = np.asarray(np.rint(values), np.int64) - first
    return np.ascontiguousarray(table[places.clip(0, len(table) - 1)])
