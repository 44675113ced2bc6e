"""What those who use the data must know and name: `LICENSES.md` and `CITATIONS.bib`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from openus import __version__

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
}


def licences(sources: Mapping[str, Mapping[str, Any]], permits: Mapping[str, str], pixels: bool) -> str:
    """The terms of each source, what was changed, and the words that a permission rests on."""
    notice = (
        "The pictures were changed: decoded, made grey, cleaned and resized as `corpus.json` says, encoded again "
        "(those flagged `verbatim` are as published). Keep this notice, and the credits below, with every copy."
        if pixels
        else "This repository holds no pictures: their terms do not clearly allow it. It holds what it takes to "
        "rebuild the same shards from the data, for those who have them."
    )
    lines = ["# Licences of the sources", "", notice, ""]
    for slug, entry in sources.items():
        facts = entry["manifest"]
        licence = facts["licence"]
        lines += [f"## {slug}: {facts['title']}", "", f"- licence: {licence['name']}"]
        lines += [f"- terms: <{licence['url']}>"] if licence.get("url") else []
        lines += [f"- from: <{facts['homepage']}>"] if facts.get("homepage") else []
        lines += [f"- note: {_line(licence['note'])}"] if licence.get("note") else []
        lines += [f"- cite: {cited}"] if (cited := citation(facts)) else []
        if slug in permits:
            lines += ["- the publisher relies on these words:", ""]
            lines += [f"  > {line}" for line in permits[slug].splitlines()]
        lines.append("")
    return "\n".join(lines)


def citation(facts: Mapping[str, Any]) -> str:
    """How a source wants to be cited, in one line; "" where nobody says."""
    cite = facts.get("citation")
    if not cite:
        return ""
    year = f" ({cite['year']})" if cite.get("year") else ""
    return f"{_line(cite['title'])}{year}" + (f", doi:{cite['doi']}" if cite.get("doi") else "")


def bibliography(sources: Mapping[str, Mapping[str, Any]]) -> str:
    """BibTeX of every source, and of this software."""
    entries = [
        "@software{openus,\n"
        "  title = {OpenUS: an ultrasound corpus anyone can rebuild},\n"
        "  author = {{The OpenUS authors}},\n"
        f"  version = {{{__version__}}}\n}}"
    ]
    for slug, entry in sources.items():
        facts = entry["manifest"]
        cite = facts.get("citation") or {"title": facts["title"]}
        fields = [f"  title = {{{_tex(cite['title'])}}}"]
        fields += [f"  year = {{{cite['year']}}}"] if cite.get("year") else []
        fields += [f"  doi = {{{cite['doi']}}}"] if cite.get("doi") else []
        fields += [f"  url = {{{facts['homepage']}}}"] if facts.get("homepage") else []
        entries.append(f"@misc{{{slug},\n" + ",\n".join(fields) + "\n}")
    return "\n\n".join(entries) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _tex(text: str) -> str:
    return re.sub(r"[\\{}%&#_$]", lambda found: _ESCAPES[found[0]], _line(text))
