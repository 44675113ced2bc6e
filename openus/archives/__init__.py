"""A safe, streaming view of a dataset as it came: folders, zip, tar, rar, 7z, also split and nested.

Nothing is unpacked where the format allows it: zip and plain tar are read in place by offset, compressed tars
in one pass. Rar and 7z, and compressed archives inside archives, are written once to a work folder. Hostile
archives (escaping names, links, bombs) are refused with `openus.errors.ArchiveError`.

tree       one dataset's files, wherever they lie; `roots`: what it is made of
formats    which container a file is, by content
folder, zips, tars, unpacked    the containers; `store`: what all of them offer
names, limits    which names are safe and belong together; what an archive may ask of this machine
"""

from openus.archives.limits import Limits
from openus.archives.tree import Entry, Member, Tree
from openus.archives.unpacked import required_tools

__all__ = ["Entry", "Limits", "Member", "Tree", "required_tools"]
