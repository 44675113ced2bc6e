"""`openus add-source`: from a folder on this machine to a proposed manifest.

look     which files are pictures, masks, tables, by content and by name
globs    the shortest patterns that select just these files
rules    patient, split and labels, from folders, file names and tables
masks    how the mask of a picture is found
draft    all of it as one manifest, tried on the folder before anybody sees it
"""

from openus.propose.draft import Draft, propose

__all__ = ["Draft", "propose"]
