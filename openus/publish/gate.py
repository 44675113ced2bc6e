"""The licence gate: for each sample, the class of licence under which it may go up, or the reason it stays at home.

What is not clearly allowed stays. Classes that bind those who pass the data on differently never share a
repository: attribution (`by`), share-alike (`by-sa`), non-commercial (`by-nc`), both (`by-nc-sa`), files as published
only (`by-nd`, `by-nc-nd`). Samples of a source that a person vouches for with
the words of a licence form a class of their own (`permitted`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openus.errors import UsageError, did_you_mean
from openus.manifest import Redistribution

RECIPE = "recipe"
PERMITTED = "permitted"
_LEAST_WORDS = 20  # characters; "yes" is no licence text

# SPDX identifier: class, and the identifier the Hub's card metadata has for it.
LICENCES: dict[str, tuple[str, str]] = {
    "CC0-1.0": ("by", "cc0-1.0"),
    "PDDL-1.0": ("by", "pddl"),
    "ODC-By-1.0": ("by", "odc-by"),
    "CC-BY-2.0": ("by", "cc-by-2.0"),
    "CC-BY-3.0": ("by", "cc-by-3.0"),
    "CC-BY-4.0": ("by", "cc-by-4.0"),
    "Apache-2.0": ("by", "apache-2.0"),
    "MIT": ("by", "mit"),
    "BSD-2-Clause": ("by", "bsd-2-clause"),
    "BSD-3-Clause": ("by", "bsd-3-clause"),
    "CC-BY-SA-3.0": ("by-sa", "cc-by-sa-3.0"),
    "CC-BY-SA-4.0": ("by-sa", "cc-by-sa-4.0"),
    "CC-BY-NC-2.0": ("by-nc", "cc-by-nc-2.0"),
    "CC-BY-NC-3.0": ("by-nc", "cc-by-nc-3.0"),
    "CC-BY-NC-4.0": ("by-nc", "cc-by-nc-4.0"),
    "CC-BY-NC-SA-2.0": ("by-nc-sa", "cc-by-nc-sa-2.0"),
    "CC-BY-NC-SA-3.0": ("by-nc-sa", "cc-by-nc-sa-3.0"),
    "CC-BY-NC-SA-4.0": ("by-nc-sa", "cc-by-nc-sa-4.0"),
    "CC-BY-ND-4.0": ("by-nd", "cc-by-nd-4.0"),
    "CC-BY-NC-ND-4.0": ("by-nc-nd", "cc-by-nc-nd-4.0"),
}

CLASSES = {
    "by": "attribution",
    "by-sa": "attribution, share alike",
    "by-nc": "attribution, non-commercial",
    "by-nc-sa": "attribution, non-commercial, share alike",
    "by-nd": "attribution, no derivatives: files as published",
    "by-nc-nd": "attribution, non-commercial, no derivatives: files as published",
    PERMITTED: "permission that the publisher relies on",
    RECIPE: "rows from which the same shards are rebuilt where the data are",
}
_STRICTNESS: tuple[Redistribution, ...] = ("pixels", "verbatim-only", "recipe-only")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`to`: the class of the repository; `RECIPE` where the pixels stay at home, for `reason`."""

    to: str
    reason: str = ""


def judge(
    source: str,
    licence: str,
    redistribution: str,
    stated: Redistribution,
    verbatim: bool,
    permitted: Mapping[str, str],
) -> Verdict:
    """Where a sample goes.

    Args:
        source: its slug.
        licence, redistribution: what its row says.
        stated: what the source's manifest says; the stricter of the two holds.
        verbatim: it is stored with the very bytes the source published.
        permitted: by slug, the words of a licence that the publisher relies on (`read_permits`).
    """
    if source in permitted:
        return Verdict(PERMITTED)
    levels = {level: rank for rank, level in enumerate(_STRICTNESS)}
    strictest = max(levels.get(redistribution, 2), levels[stated])  # type: ignore[call-overload]
    if strictest == 2:
        return Verdict(RECIPE, f"its terms ({licence}) do not allow passing it on")
    if (strictest == 1 or "-ND" in licence.upper()) and not verbatim:
        return Verdict(
            RECIPE, f"its terms ({licence}) allow only the files as published, and this is adapted"
        )
    if licence not in LICENCES:
        return Verdict(RECIPE, f"its licence ('{licence}') is none that is known to allow passing it on")
    return Verdict(LICENCES[licence][0])


def read_permits(pairs: list[str], slugs: list[str]) -> dict[str, str]:
    """`--allow SLUG=TEXT` (or `SLUG=@FILE`) as slug to the licence text relied on.

    Raises:
        UsageError: an unknown source, no text, or a text too short to be one.
    """
    permits: dict[str, str] = {}
    for pair in pairs:
        slug, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(
                f"--allow {pair}: expected SLUG=TEXT or SLUG=@FILE, with the licence text you rely on"
            )
        if slug not in slugs:
            raise UsageError(
                f"--allow {slug}=…: the corpus holds no source '{slug}'{did_you_mean(slug, slugs)}"
            )
        if text.startswith("@"):
            path = Path(text[1:]).expanduser()
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"--allow {slug}=@{path}: the text cannot be read ({error})") from error
        text = text.strip()
        if len(text) < _LEAST_WORDS:
            raise UsageError(
                f"--allow {slug}: give the words of the licence or permission you rely on (at least {_LEAST_WORDS} "
                "characters); they are printed in the card"
            )
        permits[slug] = text
    return permits
