"""The few datasets that need code: one small module each, named by ``code:`` in their manifest.

A module may define any of

- ``annotate(path, tables) -> dict``: labels, patient, clip or split that replace the declared ones;
- ``keep(path, tables) -> str | None``: a reason not to take this file;
- ``mask(path, tables) -> pixels``: the mask of an image, 0 and 255, where no file holds it (polygons);
- ``transform(pixels, path, index) -> pixels | None``: what must be done to each frame; None leaves it out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from openus.decode.frame import Pixels
from openus.select.tables import Tables

Transform = Callable[[Pixels, str, int], Pixels | None]
Draw = Callable[[str, Tables], Pixels]


def transform_of(code: str | None) -> Transform | None:
    """The `transform` of a source's module, or None."""
    function: Transform | None = _function(code, "transform")
    return function


def mask_of(code: str | None) -> Draw | None:
    """The `mask` of a source's module, or None."""
    function: Draw | None = _function(code, "mask")
    return function


def _function(code: str | None, name: str) -> Any:
    return None if code is None else getattr(importlib.import_module(f"openus.sources.{code}"), name, None)
