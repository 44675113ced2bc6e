"""The one schema of the corpus: a row per sample, a row per input that was not kept.

The row is stored twice: as a line of the Parquet manifest beside each shard, and (without the fields that
describe the shard itself) as the flat JSON member of the sample inside the tar. The JSON has no nulls and
the same fields with the same types in every sample, because readers infer its schema from the first few.
"""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 2

QUALITY = ("empty", "saturated", "flat", "blurred", "tiny")
"""Flags of pictures that one may want to leave out; their thresholds are `clean.quality` of the corpus file."""

VERBATIM = "verbatim"
"""Flag of a picture stored with the very bytes its source published."""

ROW = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # unique in the corpus, no dots
        pa.field("set", pa.string(), nullable=False),  # pretrain, or the name of a held-out set
        pa.field("shard", pa.string(), nullable=False),  # file name of the tar, e.g. pretrain-000000.tar
        pa.field("offset", pa.int64(), nullable=False),  # first byte of the image inside the tar
        pa.field("size", pa.int64(), nullable=False),  # bytes of the image
        pa.field("source", pa.string(), nullable=False),  # slug
        pa.field("anatomy", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # image | frame | slice
        pa.field("member", pa.string(), nullable=False),  # path inside the dataset
        pa.field("index", pa.int64(), nullable=False),  # frame or slice number in the member
        pa.field("clip", pa.string(), nullable=False),  # "" where single images form no clip
        pa.field("patient", pa.string(), nullable=False),  # "" where unknown
        pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # as published; "" where none
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the image's bytes in the tar
        pa.field(
            "pixel_sha256", pa.string(), nullable=False
        ),  # of (height, width, grey pixels) before encoding
        pa.field("phash", pa.string(), nullable=False),  # 64 hexadecimal digits: 256-bit DCT hash
        pa.field("cluster", pa.string(), nullable=False),  # duplicate cluster; the key itself where alone
        pa.field("sector", pa.list_(pa.int32(), 4), nullable=False),  # x, y, w, h in source pixels
        pa.field("cleaned_fraction", pa.float32(), nullable=False),  # share of pixels altered by cleaning
        pa.field("text_boxes", pa.int32(), nullable=False),  # -1 where nobody looked
        pa.field(
            "flags", pa.string(), nullable=False
        ),  # sorted words of openus.clean, joined by ","; "" for none
        # The words among them that tell a poor picture, a column each to filter by.
        *(pa.field(word, pa.bool_(), nullable=False) for word in QUALITY),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("redistribution", pa.string(), nullable=False),
    ],
    metadata={b"openus.schema": str(SCHEMA_VERSION).encode()},
)

REJECTED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),  # -1: the whole member
        pa.field("stage", pa.string(), nullable=False),  # select | frames | decode | clean | dedup
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ],
    metadata={b"openus.schema": str(SCHEMA_VERSION).encode()},
)

DUPLICATES = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),  # keys; a is the one preferred
        pa.field("b", pa.string(), nullable=False),
        pa.field("source_a", pa.string(), nullable=False),
        pa.field("source_b", pa.string(), nullable=False),
        pa.field("name_a", pa.string(), nullable=False),  # source/member#index
        pa.field("name_b", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # exact | near
        pa.field("distance", pa.int32(), nullable=False),  # bits of 256 between the nearest hashes
        pa.field("score", pa.float32(), nullable=False),  # similarity of the aligned windows
        pa.field(
            "window_a", pa.list_(pa.float32(), 4), nullable=False
        ),  # top, bottom, left, right: fractions
        pa.field("window_b", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("decision_a", pa.string(), nullable=False),  # kept | duplicate | leak
        pa.field("decision_b", pa.string(), nullable=False),
    ],
    metadata={b"openus.schema": str(SCHEMA_VERSION).encode()},
)

_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_OUTSIDE_TAR = ("shard", "offset", "size")
_INSIDE = [name for name in ROW.names if name not in _OUTSIDE_TAR]
_BEFORE, _AFTER = _INSIDE[: _INSIDE.index("sector")], _INSIDE[_INSIDE.index("sector") + 1 :]
_before, _after = itemgetter(*_BEFORE), itemgetter(*_AFTER)


def sample_json(row: dict[str, Any]) -> bytes:
    """The JSON member of a sample: flat, fixed field order, no nulls; labels as a JSON string, sector as four ints."""
    flat = dict(zip(_BEFORE, _before(row), strict=True))
    flat["labels"] = _compact(dict(sorted(dict(row["labels"]).items()))) if row["labels"] else "{}"
    flat.update(zip(("sector_x", "sector_y", "sector_w", "sector_h"), map(int, row["sector"]), strict=True))
    flat.update(zip(_AFTER, _after(row), strict=True))
    flat["cleaned_fraction"] = round(float(row["cleaned_fraction"]), 6)
    return _compact(flat).encode()
