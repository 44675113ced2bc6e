"""Small source manifests for tests."""

from __future__ import annotations

from typing import Any

from openus.manifest import Source

FACTS: dict[str, Any] = {
    "schema": 1,
    "slug": "toy",
    "name": "Toy",
    "title": "A toy dataset",
    "anatomy": "none",
    "kind": "image",
    "licence": {"name": "unknown", "redistribution": "recipe-only"},
    "images": ["images/*.png"],
}


def toy(*routes: dict[str, Any], **facts: Any) -> Source:
    """A source with these routes."""
    return Source.model_validate({**FACTS, **facts, "routes": list(routes)})
