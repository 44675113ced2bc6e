"""Cleaning: what is not tissue goes, nothing is invented, and what was done is recorded."""

from openus.clean.grey import lit_fraction, resize_short_side, to_grey
from openus.clean.pipeline import Cleaned, Refused, clean_frame

__all__ = ["Cleaned", "Refused", "clean_frame", "lit_fraction", "resize_short_side", "to_grey"]
