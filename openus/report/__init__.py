"""The report: one page about a built corpus, for the people who must decide whether to trust it.

write        the page, from the facts and pictures below
data         what the manifests of the corpus tell
duplicates   clusters, sources against sources, leaks
checks       what to look at before trusting it
charts, pictures, cleaning    histograms; tiles and contact sheets; pictures before and after cleaning
copies       the page of `openus dedup`
"""

from openus.report.cleaning import write_before
from openus.report.write import Written, write_report

__all__ = ["Written", "write_before", "write_report"]
