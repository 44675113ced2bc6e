"""Which files of a dataset are images, and what is known of each: labels, patient, clip, split, mask.

selection  the rules of a manifest, applied to the names of the files
tables     label tables that travel with a dataset
"""

from openus.select.selection import Selected, Selection, select

__all__ = ["Selected", "Selection", "select"]
