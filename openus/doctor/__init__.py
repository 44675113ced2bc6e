"""`openus doctor`: what this machine lacks for a build, and (online) whether every route still leads somewhere.

machine      external tools, optional packages, disk space against the estimate, drop folders, `credentials`
online       every route of every source asked for its files, a few bytes of them fetched (`probe`); licence pages
table        both for people
"""

from openus.doctor.machine import Check, examine_machine
from openus.doctor.online import PageCheck, RouteCheck, SourceCheck, examine_sources

__all__ = ["Check", "PageCheck", "RouteCheck", "SourceCheck", "examine_machine", "examine_sources"]
