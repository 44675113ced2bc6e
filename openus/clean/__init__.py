"""Cleaning: what is not tissue goes, nothing is invented, and what was done is recorded."""

from openus.clean.grey import lit_fraction, resize_short_side, to_grey
from openus.clean.pipeline import Cleaned, Refused, clean_frame, clean_frames

__all__ = [
    "Cleaned",
    "Refused",
    "clean_frame",
    "clean_frames",
    "lit_fraction",
    "resize_short_side",
    "to_grey",
]
