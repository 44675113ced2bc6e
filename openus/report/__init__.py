"""The report: one page about a built corpus, for the people who must decide whether to trust it."""

from openus.report.cleaning import write_before
from openus.report.write import Written, write_report

__all__ = ["Written", "write_before", "write_report"]
