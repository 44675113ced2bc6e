"""Beginning from other weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from openus.console import err
from usfmae.model.layouts import WeightsError, is_decoder_key
from usfmae.model.mae import MAE, MAEConfig


def begin_with(mae: MAE, state: Mapping[str, Tensor], found: MAEConfig, name: str) -> None:
    """Copy weights into a fresh network. The encoder must fit whole; a decoder that is absent or of another
    kind stays fresh, aloud. Raises `WeightsError` otherwise.

    Fixed positions are the network's own; they are the same numbers where the sizes agree.
    """
    own = mae.state_dict()
    fixed = () if mae.config.positions == "learned" else ("pos_embed", "decoder_pos_embed")
    wanted = [k for k in own if k not in fixed]
    fit = {k: state[k] for k in wanted if k in state and state[k].shape == own[k].shape}
    unfit = [k for k in wanted if k not in fit and not is_decoder_key(k)]
    if unfit:
        shapes = [
            f"{k} {list(state[k].shape) if k in state else 'absent'} for {list(own[k].shape)}"
            for k in unfit[:3]
        ]
        raise WeightsError(
            f"{name}: these weights do not fit the recipe's encoder ({'; '.join(shapes)}"
            f"{' …' if len(unfit) > 3 else ''}); they are of embed_dim {found.embed_dim}, depth {found.depth}, "
            f"patch_size {found.patch_size}: set model.* so"
        )
    decoder = [k for k in wanted if is_decoder_key(k)]
    if not all(k in fit for k in decoder):
        fit = {k: v for k, v in fit.items() if not is_decoder_key(k)}
        err.print(
            f"{name}: no decoder of this shape there; the decoder begins at random",
            style="yellow",
            markup=False,
        )
    mae.load_state_dict(fit, strict=False)
