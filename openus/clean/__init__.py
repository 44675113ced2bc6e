"""Cleaning: what is not tissue goes, nothing is invented, and what was done is recorded.

pipeline   the steps of a frame, in order
plan       what is done to every frame of a clip, from the `evidence` of its first frames
sector     the part that the probe saw, from its outline (`fit`, `shapes`) or the header of a DICOM file (`regions`)
text, calipers, marks    burned-in letters, bright crosses, markings in colour; `fill`: what stands in their place
grey, area   colour to grey, and size
quality    flags of poor pictures
before     a few pictures as they were, for the report
"""

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
