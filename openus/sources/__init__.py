"""The few datasets that need code: one small module each, named by ``code:`` in their manifest.

A module may define any of

- ``annotate(path, tables) -> dict``: labels, patient, clip or split that replace the declared ones;
- ``keep(path, tables) -> str | None``: a reason not to take this file;
- ``transform(pixels, path, index) -> pixels | None``: what must be done to each frame; None leaves it out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from openus.decode.frame import Pixels

Transform = Callable[[Pixels, str, int], "Pixels | None"]


def transform_of(code: str | None) -> Transform | None:
    """The `transform` of a source's module, or None."""
    if code is None:
        return None
    function: Transform | None = getattr(importlib.import_module(f"openus.sources.{code}"), "transform", None)
    return function
