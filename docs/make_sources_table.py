"""Writes docs/sources.md, the table of all sources, from the manifests.

python docs/make_sources_table.py            write the page
python docs/make_sources_table.py --check    exit 1 if the page is not current
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from written import DOCS, write_or_check

from openus.catalogue import Catalogue
from openus.estimate import estimate
from openus.manifest import Route, Source

NAMES = {
    "dataverse": "Dataverse",
    "figshare": "figshare",
    "girder": "Girder",
    "github": "GitHub",
    "google-drive": "Google Drive",
    "http": "web server",
    "huggingface": "Hugging Face",
    "kaggle-competition": "Kaggle competition",
    "kaggle-dataset": "Kaggle",
    "manual": "by hand",
    "mendeley": "Mendeley Data",
    "tcia": "TCIA",
    "zenodo": "Zenodo",
}
BY_HAND = {
    "open": "opens {page} and downloads the files (no account)",
    "account": "signs in at {page} and downloads the files",
    "registration": "registers at {page}, accepts the terms and downloads the files",
    "request": "asks for the data at {page}",
}
HEAD = """\
# The 46 sources

*Written by `docs/make_sources_table.py` from the manifests in `manifests/sources/`; do not edit.*

Routes are tried in order. **Automatic** is what `openus build` does without anybody's help; **a person** is what it
asks for, step by step, with `openus fetch SLUG`. **Shared** is what the licence lets `openus publish` pass on:
`pixels`, or only the recipe by which everybody builds the source anew (`recipe-only`, also wherever no licence is
stated). **Samples** is the estimate of `openus sources --estimate` under the default frame policy, before duplicates
are removed; `≤` marks an upper bound and `~` a rough figure. **Confidence** is how sure the facts of the manifest
are; what is unsure stands in the manifest.

| # | source | anatomy | routes | access | automatic | a person | shared | samples | confidence |
|--:|---|---|---|---|---|---|---|--:|---|
"""
MARKS = {"counted": "", "computed": "", "at most": "≤ ", "rough": "~ "}


def page(sources: Sequence[Source]) -> str:
    """The whole page as Markdown."""
    estimates = [estimate(source) for source in sources]
    total = sum(found.samples or 0 for found in estimates)
    unknown = sum(found.samples is None for found in estimates)
    rows = "\n".join(_row(source) for source in sources)
    without = f"; {unknown} of unknown size are not in it" if unknown else ""
    return (
        f"{HEAD}{rows}\n\nAll sources together: about {round(total, -3):,} samples{without}. "
        "The USF-MAE paper speaks of about 370,000.\n"
    )


def _row(source: Source) -> str:
    automatic, person = _work(source)
    found = estimate(source)
    samples = "?" if found.samples is None else f"{MARKS.get(found.basis, '')}{found.samples:,}"
    cells = (
        str(source.number or ""),
        f"[{source.slug}]({source.homepage})" if source.homepage else source.slug,
        source.anatomy,
        ", ".join(dict.fromkeys(NAMES[route.host] for route in source.routes)),
        source.access,
        automatic,
        person,
        source.licence.redistribution,
        samples,
        source.confidence,
    )
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _work(source: Source) -> tuple[str, str]:
    """What is automatic, and what a person does."""
    routes = [route for route in source.routes if route.host != "manual"]
    by_hand = next((route for route in source.routes if route.host == "manual"), None)
    open_routes = [route for route in routes if route.access == "open"]
    if open_routes:
        helps = f"; if the routes fail, {_by_hand(source, by_hand)}" if by_hand else ""
        return "all", "nothing" + helps
    if routes:
        site = NAMES[routes[0].host]
        rules = " and accepts the rules" if routes[0].host == "kaggle-competition" else ""
        return "all, with the credentials", f"gets a {site.split()[0]} account{rules}"
    if by_hand is None:
        return "nothing", "finds the data: no route is known"
    return "all from the drop folder on", _by_hand(source, by_hand)


def _by_hand(source: Source, route: Route) -> str:
    address = route.url or source.homepage
    return BY_HAND[route.access].format(page=f"[this page]({address})" if address else "its page")


if __name__ == "__main__":
    everything = sorted(Catalogue().sources(), key=lambda source: source.number or 0)
    sys.exit(write_or_check(DOCS / "sources.md", lambda: page(everything)))
