"""The autoencoder against timm's encoder and transformers' ViTMAE on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from openus.errors import UsageError
from usfmae.model.blocks import sincos_positions
from usfmae.model.layouts import encoder_state, to_huggingface
from usfmae.model.mae import GREY_MEAN, IMAGENET_MEAN, IMAGENET_STD, MAE, SIZES, MAEConfig

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "decoder_embed_dim": 32, "decoder_depth": 2}


def small(**changes: object) -> MAEConfig:
    return MAEConfig(**{"img_size": 48, "patch_size": 8, "decoder_num_heads": 4, **SMALL, **changes})  # type: ignore[arg-type]


def colour(**changes: object) -> MAEConfig:
    return small(in_chans=3, mean=IMAGENET_MEAN, std=IMAGENET_STD, **changes)


def wake(model: torch.nn.Module, seed: int = 3) -> None:
    """Give every parameter a random part, so that zero biases and unit norms hide no mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_is_timms(channels: int) -> None:
    mae = MAE(colour() if channels == 3 else small())
    wake(mae)
    vit = VisionTransformer(
        img_size=48, patch_size=8, in_chans=channels, embed_dim=48, depth=3, num_heads=3, num_classes=0
    )
    vit.load_state_dict(encoder_state(mae.state_dict()), strict=True)
    images = torch.randn(2, channels, 48, 48)
    torch.testing.assert_close(mae.features(images), vit.forward_features(images), atol=1e-5, rtol=1e-5)


def test_preset_with_the_side_of_a_patch() -> None:
    config = MAEConfig.preset("small/8", img_size=160)
    assert (config.embed_dim, config.patch_size, config.num_patches) == (384, 8, 400)
    for wrong in ("small/", "small/x", "smal/8"):
        with pytest.raises(UsageError, match="like small/8"):
            MAEConfig.preset(wrong)


@pytest.mark.parametrize("size", ["small", "base"])
def test_preset_has_the_shapes_of_timms_mae_model(size: str) -> None:
    with torch.device("meta"):
        mae = MAE(MAEConfig.preset(size, in_chans=3, mean=IMAGENET_MEAN, std=IMAGENET_STD, decoder_depth=1))
        vit = timm.create_model(f"vit_{size}_patch16_224", num_classes=0)
    ours = {k: tuple(v.shape) for k, v in encoder_state(mae.state_dict()).items()}
    assert ours == {k: tuple(v.shape) for k, v in vit.state_dict().items()}


def test_reference_parameter_names_and_count() -> None:
    """ViT-B/16 with the reference decoder in colour: the names of the published checkpoints."""
    with torch.device("meta"):
        mae = MAE(MAEConfig.preset("base", in_chans=3, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    state = mae.state_dict()
    assert tuple(state["pos_embed"].shape) == (1, 197, 768)
    assert tuple(state["decoder_pos_embed"].shape) == (1, 197, 512)
    assert tuple(state["mask_token"].shape) == (1, 1, 512)
    assert tuple(state["decoder_pred.weight"].shape) == (768, 512)
    assert tuple(state["decoder_blocks.7.attn.qkv.weight"].shape) == (1536, 512)
    assert sum(v.numel() for v in state.values()) == 111_907_840


@pytest.mark.parametrize("normalised", [False, True])
def test_loss_and_gradients_are_those_of_transformers(tmp_path: Path, normalised: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = colour(norm_pix_loss=normalised)
    mae = MAE(config)
    wake(mae)
    hf_config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=192, image_size=48,
        patch_size=8, decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=128, layer_norm_eps=1e-6, norm_pix_loss=normalised, mask_ratio=0.75,
    )  # fmt: skip
    hf_config.save_pretrained(tmp_path)
    safetensors.torch.save_file(
        to_huggingface(mae.state_dict()), tmp_path / "model.safetensors", {"format": "pt"}
    )
    peer, report = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]

    images, noise = torch.randn(4, 3, 48, 48), torch.rand(4, 36)
    ours, theirs = mae(images, noise), peer(images, noise=noise)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-6, rtol=1e-6)
    painted = theirs.logits.gather(1, ours.hidden[..., None].expand(-1, -1, 192))
    torch.testing.assert_close(ours.pred, painted, atol=1e-5, rtol=1e-5)

    ours.loss.backward()
    theirs.loss.backward()
    own = {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in mae.named_parameters()}
    safetensors.torch.save_file(to_huggingface(own), tmp_path / "model.safetensors", {"format": "pt"})
    gradients = dict(transformers.ViTMAEForPreTraining.from_pretrained(tmp_path).named_parameters())
    compared = 0
    for key, parameter in peer.named_parameters():
        if not key.endswith(("position_embeddings", "decoder_pos_embed")):  # fixed in the reference
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[key].data, parameter.grad, atol=2e-6, rtol=1e-4)
            compared += parameter.numel()
    assert compared == sum(p.numel() for p in mae.parameters() if p.requires_grad)


def test_positions_are_those_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding as theirs

    table = theirs(height=6, width=6, embed_dim=48, cls_token=True)
    swapped = torch.cat([table[:, 24:], table[:, :24]], dim=1)  # the reference encodes the column first
    torch.testing.assert_close(sincos_positions(48, 6)[0], swapped)


def test_patchify_inverts_and_orders_row_column_channel() -> None:
    mae = MAE(colour())
    images = torch.arange(3 * 48 * 48).float().view(1, 3, 48, 48)
    patches = mae.patchify(images)
    assert torch.equal(mae.unpatchify(patches), images)
    assert torch.equal(
        patches[0, 7, :6], torch.stack([images[0, c, 8, 8 + x] for x in (0, 1) for c in range(3)])
    )


def test_only_hidden_and_scored_patches_count() -> None:
    mae = MAE(small())
    wake(mae)
    images, noise = torch.randn(2, 1, 48, 48), torch.rand(2, 36)
    scored = torch.rand(2, 36) < 0.5
    result = mae(images, noise, num_keep=10, scored=scored)
    assert result.hidden.shape == (2, 26) and result.keep.shape == (2, 10)
    assert (
        noise.gather(1, result.keep)
        .max(dim=1)
        .values.lt(noise.gather(1, result.hidden).min(dim=1).values)
        .all()
    )
    target = mae.patchify(images).gather(1, result.hidden[..., None].expand(-1, -1, 64))
    error = (result.pred - target).square().mean(-1)
    counted = scored.gather(1, result.hidden)
    each = torch.stack([error[i][counted[i]].mean() for i in range(2)])
    torch.testing.assert_close(result.per_sample, each)
    torch.testing.assert_close(result.loss, each.mean())


def test_what_the_encoder_sees_can_differ_from_the_target() -> None:
    mae = MAE(small())
    images, noise = torch.randn(2, 1, 48, 48), torch.rand(2, 36)
    plain = mae(images, noise)
    torch.testing.assert_close(mae(images, noise, seen=images.clone()).loss, plain.loss)
    assert not torch.allclose(mae(images, noise, seen=images * 0.5).pred, plain.pred)


def test_activation_checkpointing_changes_nothing_but_memory() -> None:
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        mae = MAE(small())
        mae.checkpointing = on
        mae(torch.ones(2, 1, 48, 48), torch.linspace(0, 1, 72).view(2, 36)).loss.backward()
        gradients.append([p.grad for p in mae.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_learned_positions_are_trained_and_fixed_ones_are_not() -> None:
    for positions, trained in (("sincos", False), ("learned", True)):
        mae = MAE(small(positions=positions))
        mae(torch.randn(2, 1, 48, 48)).loss.backward()
        assert (mae.pos_embed.grad is not None) is trained
        assert (mae.decoder_pos_embed.grad is not None) is trained


def test_cross_decoder_hidden_tokens_do_not_see_one_another() -> None:
    """CrossMAE: what is painted at one place does not depend on which other hidden places are painted."""
    mae = MAE(small(decoder="cross"))
    wake(mae)
    images, noise = torch.randn(2, 1, 48, 48), torch.rand(2, 36)
    patches, order = mae.patchify(images), noise.argsort(1)
    keep, hidden = order[:, :9], order[:, 9:]
    levels = mae.encode(patches.gather(1, keep[..., None].expand(-1, -1, 64)), keep)
    all_of_them, few = mae.decode(levels, keep, hidden), mae.decode(levels, keep, hidden[:, :5])
    torch.testing.assert_close(all_of_them[:, :5], few, atol=1e-5, rtol=1e-5)
    full = MAE(small())
    wake(full)
    levels = full.encode(patches.gather(1, keep[..., None].expand(-1, -1, 64)), keep)
    assert not torch.allclose(
        full.decode(levels, keep, hidden)[:, :5], full.decode(levels, keep, hidden[:, :5])
    )


def test_cross_decoder_paints_only_a_share_of_the_hidden() -> None:
    mae = MAE(small(decoder="cross", predict_ratio=1 / 3))
    result = mae(torch.randn(2, 1, 48, 48))
    assert result.keep.shape == (2, 9) and result.hidden.shape == (2, 9)
    result.loss.backward()
    untouched = [k for k, p in mae.named_parameters() if p.requires_grad and p.grad is None]
    assert untouched == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 50}, "img_size 50 is not a multiple of patch_size 8"),
        ({"num_heads": 5}, "embed_dim 48 must be a multiple"),
        ({"in_chans": 3}, "as many values in mean and std"),
        ({"decoder": "cros"}, "did you mean 'cross'"),
        ({"mask_ratio": 1.0}, "mask_ratio 1.0"),
        ({"predict_ratio": 0.5}, "needs decoder: cross"),
    ],
)
def test_impossible_configurations_say_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[").replace(".", r"\.")):
        small(**changes)


def test_config_round_trip_and_unknown_field() -> None:
    config = MAEConfig.preset("tiny", img_size=96, mask_ratio=0.6)
    assert MAEConfig.from_dict(config.to_dict()) == config and config.mean == GREY_MEAN
    with pytest.raises(UsageError, match="did you mean 'img_size'"):
        MAEConfig.from_dict({"image_size": 96})
    with pytest.raises(UsageError, match="did you mean 'base'"):
        MAEConfig.preset("bas")
    assert set(SIZES) == {"tiny", "small", "base", "large", "huge"}


def test_wrong_image_size_names_what_is_wanted() -> None:
    with pytest.raises(ValueError, match=r"wants images \[B,1,48,48\], found \[2, 3, 48, 48\]"):
        MAE(small())(torch.randn(2, 3, 48, 48))


def test_a_narrow_stream_is_bfloat16_and_close_to_the_exact_one() -> None:
    config = MAEConfig(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, decoder_embed_dim=32, decoder_depth=2,
        decoder_num_heads=2,
    )  # fmt: skip
    for decoder in ("full", "cross"):
        torch.manual_seed(0)
        mae = MAE(config.with_(decoder=decoder))
        images, noise = torch.randn(4, 1, 32, 32), torch.rand(4, 16)
        exact = float(mae(images, noise).loss)
        with torch.autocast("cpu", torch.bfloat16):
            wide = mae.encode(mae.patchify(images))
            mae.narrow = True
            narrow = mae.encode(mae.patchify(images))
            loss = float(mae(images, noise).loss)
        assert {x.dtype for x in wide} == {torch.float32} and {x.dtype for x in narrow} == {torch.bfloat16}
        assert loss == pytest.approx(exact, rel=0.01)
