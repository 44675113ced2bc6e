"""What a masking decides."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Hiding(NamedTuple):
    """The `num_keep` patches of the smallest `noise` stay visible; the fields are arguments of `MAE.forward`."""

    noise: Tensor  # float [B,N]
    num_keep: int
    scored: Tensor | None = None  # bool [B,N], patches whose error counts if hidden; None: all
    seen: Tensor | None = None  # float [B,C,H,W], what the encoder sees; None: the image itself
