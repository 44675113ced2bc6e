"""`openus build --from-recipe`: the shards of a published recipe again, where the data are, with the proof."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from openus import console
from openus.catalogue import Catalogue
from openus.errors import CorpusError, UsageError
from openus.publish.recipe import Proof, Recipe, prove, read_recipe, write_manifests
from openus.stages.results import BuildResult


def refuse_settings(corpus: str, **settings: Any) -> None:
    """Raise UsageError for options of a build that a recipe settles."""
    given = [f"--{name}" for name, value in settings.items() if value not in (None, False) and value != []]
    if corpus != "openus-46":
        given.append("--corpus")
    if given:
        raise UsageError(f"--from-recipe settles what is built; leave out {', '.join(given)}")


def from_recipe(place: str, folder: Path) -> tuple[Recipe, Catalogue]:
    """Read a recipe; its manifests are written into `folder`, for the catalogue. Raises CorpusError, UsageError."""
    recipe = read_recipe(place)
    return recipe, Catalogue(write_manifests(recipe, folder))


def conclude(recipe: Recipe, folder: Path, result: BuildResult, out: str, as_json: bool) -> None:
    """Compare every shard that was built with its SHA-256, and print the proof.

    Raises:
        CorpusError: the shards are not the same; the message says where they differ.
    """
    proof = prove(recipe, folder, result.shards)
    if as_json:
        console.print_json(result.summary | {"out": out, "proof": asdict(proof) | {"holds": proof.holds}})
    elif proof.holds:
        console.out.print(
            f"[green]✓[/] all {proof.shards} shards have the SHA-256 that the recipe names: they are the same",
            soft_wrap=True,
        )
    if not proof.holds:
        raise CorpusError(_difference(out, proof, result))


def _difference(out: str, proof: Proof, result: BuildResult) -> str:
    text = f"{out}: {proof.identical} of {proof.shards} shards are the recipe's"
    missing = [item.source.slug for item in result.missing]
    if missing:
        text += f"; sources that could not be had: {', '.join(missing)}"
    for counts, what in ((proof.lacking, "samples lacking"), (proof.differing, "samples that differ")):
        others = {slug: count for slug, count in counts.items() if slug not in missing}
        if others:
            text += f"; {what}: " + ", ".join(f"{count:,} of {slug}" for slug, count in others.items())
    if proof.packages:
        versions = (f"{name} {theirs} (here {ours})" for name, (theirs, ours) in proof.packages.items())
        text += f"; the recipe was made with {', '.join(versions)}: install those and run it again"
    return text
