"""Weights in and out: round trips, foreign layouts, channel folding, and files that must be refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch.nn.functional import interpolate

from tests.model.test_mae import colour, small, wake
from usfmae.model.foreign import recognise
from usfmae.model.layouts import WeightsError, encoder_state, to_huggingface
from usfmae.model.mae import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD, MAE
from usfmae.model.weights import Weights, build_encoder, build_mae, fold_channels, load_weights, save_weights


def saved(folder: Path, mae: MAE) -> Path:
    save_weights(folder, mae.state_dict(), {"model": mae.config.to_dict()})
    return folder


def awake(config: object) -> MAE:
    mae = MAE(config)  # type: ignore[arg-type]
    wake(mae)
    return mae.eval()


def normalised(grey: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    m, s = (torch.tensor(v, dtype=grey.dtype).view(1, -1, 1, 1) for v in (mean, std))
    return (grey - m) / s


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    mae = awake(small())
    weights = load_weights(saved(tmp_path / "w", mae))
    assert weights.model == mae.config and weights.has_decoder
    assert set(weights.state) == set(mae.state_dict())
    assert all(torch.equal(v, mae.state_dict()[k]) for k, v in weights.state.items())
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["config.json", "weights.safetensors"]
    noise = torch.rand(2, 36)
    assert torch.equal(
        build_mae(weights)(torch.ones(2, 1, 48, 48), noise).loss, mae(torch.ones(2, 1, 48, 48), noise).loss
    )


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "module"])
def test_reference_checkpoints_are_read_in_their_wrappings(tmp_path: Path, wrap: str) -> None:
    mae = awake(colour())
    state: dict[str, object] = dict(mae.state_dict())
    if wrap == "module":
        state = {f"module.{k}": v for k, v in state.items()}
    elif wrap != "bare":
        state = {wrap: state, "epoch": 3}
    torch.save(state, tmp_path / "mae.pth")
    weights = load_weights(tmp_path / "mae.pth")
    assert weights.model.embed_dim == 48 and weights.model.depth == 3 and weights.model.mean == IMAGENET_MEAN
    assert weights.model.decoder_depth == 2 and weights.model.img_size == 48
    assert all(torch.equal(v, mae.state_dict()[k]) for k, v in weights.state.items())


def test_hugging_face_layout_is_read_and_written(tmp_path: Path) -> None:
    mae = awake(colour())
    stored = to_huggingface(mae.state_dict())
    assert "vit.encoder.layer.0.attention.attention.query.weight" in stored
    back = recognise(stored, "stored").state
    assert set(back) == set(mae.state_dict()) and all(
        torch.equal(back[k], v) for k, v in mae.state_dict().items()
    )
    safetensors.torch.save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit_mae"}))
    assert set(load_weights(tmp_path).state) == set(mae.state_dict())


def test_timm_loads_the_saved_encoder_as_it_is(tmp_path: Path) -> None:
    mae = awake(small(in_chans=3, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    saved(tmp_path, mae)
    state = encoder_state(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0
    )
    vit.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(
        vit.eval().forward_features(images), mae.features(images), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("img_size", [48, 80])
def test_encoder_for_another_size_has_resampled_positions(tmp_path: Path, img_size: int) -> None:
    mae = awake(small())
    encoder = build_encoder(load_weights(saved(tmp_path, mae)), img_size=img_size, global_pool="token").eval()
    grid = img_size // 8
    assert encoder.pos_embed.shape == (1, 1 + grid * grid, 48)
    torch.testing.assert_close(encoder.pos_embed[:, :1], mae.pos_embed[:, :1])
    if img_size == 48:
        images = torch.randn(2, 1, 48, 48)
        torch.testing.assert_close(
            encoder.forward_features(images), mae.features(images), atol=1e-5, rtol=1e-5
        )
    else:  # the resampled table is the old one seen at the new places, not some other table
        old = mae.pos_embed[:, 1:].reshape(1, 6, 6, 48).permute(0, 3, 1, 2)
        expected = interpolate(old, size=(10, 10), mode="bicubic", antialias=True, align_corners=False)
        table = encoder.pos_embed[:, 1:].reshape(1, 10, 10, 48).permute(0, 3, 1, 2)
        torch.testing.assert_close(table, expected, atol=1e-5, rtol=1e-5)
        theirs = resample_abs_pos_embed(mae.pos_embed, [10, 10], num_prefix_tokens=1)
        torch.testing.assert_close(encoder.pos_embed, theirs, atol=1e-5, rtol=1e-5)


def test_colour_weights_fold_to_grey_exactly(tmp_path: Path) -> None:
    """The same tokens and the same painted grey values for a grey image, normalisation included."""
    mae = awake(colour())
    weights = load_weights(saved(tmp_path, mae))
    grey = torch.rand(2, 1, 48, 48, dtype=torch.float64)
    three = normalised(grey.expand(-1, 3, -1, -1), IMAGENET_MEAN, IMAGENET_STD)
    one = normalised(grey, GREY_MEAN, GREY_STD)
    folded = build_mae(weights, in_chans=1).double().eval()
    torch.testing.assert_close(folded.features(one), mae.double().features(three), atol=1e-5, rtol=1e-6)
    encoder = build_encoder(weights, img_size=48, global_pool="token").double().eval()
    assert encoder.pretrained_cfg["mean"] == GREY_MEAN
    torch.testing.assert_close(encoder.forward_features(one), mae.features(three), atol=1e-5, rtol=1e-6)
    noise = torch.rand(2, 36)
    painted = mae.double()(three, noise).pred.view(2, -1, 64, 3)
    values = (painted * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)).mean(-1)
    torch.testing.assert_close(folded(one, noise).pred * 0.2 + 0.2, values, atol=1e-5, rtol=1e-6)


def test_grey_weights_unfold_to_colour_and_back() -> None:
    mae = awake(small())
    state, config = fold_channels(mae.state_dict(), mae.config, 3, IMAGENET_MEAN, IMAGENET_STD)
    grey = torch.rand(2, 1, 48, 48)
    wide = MAE(config)
    wide.load_state_dict(state)
    three = normalised(grey.expand(-1, 3, -1, -1), IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(
        wide.features(three), mae.features(normalised(grey, GREY_MEAN, GREY_STD)), atol=1e-4, rtol=1e-4
    )
    back, again = fold_channels(state, config, 1, GREY_MEAN, GREY_STD)
    assert again == mae.config
    for key, value in mae.state_dict().items():
        torch.testing.assert_close(back[key], value, atol=1e-6, rtol=1e-5)


def test_head_and_pooled_norm_are_fresh_and_everything_else_is_loaded(tmp_path: Path) -> None:
    mae = awake(small())
    encoder = build_encoder(load_weights(saved(tmp_path, mae)), img_size=48, num_classes=2, drop_path=0.1)
    own = mae.state_dict()
    fresh = {k for k, v in encoder.state_dict().items() if k not in own or not torch.equal(v, own[k])}
    assert fresh == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert encoder(torch.randn(2, 1, 48, 48)).shape == (2, 2)


def test_fresh_encoder_without_weights() -> None:
    encoder = build_encoder(None, config=small().to_dict(), img_size=64, num_classes=3)
    assert encoder(torch.randn(1, 1, 64, 64)).shape == (1, 3)


def test_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    mae = awake(small())
    state = dict(mae.state_dict())
    del state["blocks.1.attn.qkv.weight"]
    state["blocks.9.extra"] = torch.zeros(3)
    state["norm.weight"] = torch.zeros(7)
    weights = Weights(state, {"model": mae.config.to_dict()}, tmp_path / "broken")
    with pytest.raises(
        WeightsError,
        match=r"1 missing: blocks\.1\.attn\.qkv\.weight; 1 left over: blocks\.9\.extra; 1 of another",
    ) as e:
        build_mae(weights)
    assert "norm.weight [7] for [48]" in str(e.value)
    with pytest.raises(WeightsError, match=r"left over: blocks\.9\.extra"):
        build_encoder(weights, img_size=48)


def test_encoder_only_weights_cannot_paint(tmp_path: Path) -> None:
    save_weights(tmp_path, encoder_state(awake(small()).state_dict()), {"model": small().to_dict()})
    weights = load_weights(tmp_path)
    assert build_encoder(weights, img_size=48).blocks[0].attn.num_heads == 3
    with pytest.raises(WeightsError, match="only an encoder"):
        build_mae(weights)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path(_Harmful.target),))  # type: ignore[arg-type]

    target = ""


def test_pickled_code_is_refused_in_one_line_and_never_run(tmp_path: Path) -> None:
    _Harmful.target = str(tmp_path / "harm")
    torch.save({"model": awake(small()).state_dict(), "extra": _Harmful()}, tmp_path / "bad.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Harmful()))
    for name in ("bad.pt", "raw.pt"):
        with pytest.raises(WeightsError, match="pickled code") as error:
            load_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "mae.pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "list"])
def test_damaged_files_give_one_line(tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / name
    state = awake(small()).state_dict()
    torch.save(state, file) if name.endswith("pth") else safetensors.torch.save_file(state, file)
    data = {
        "truncated": file.read_bytes()[:-5000],
        "empty": b"",
        "text": b"<html>not found</html>" * 40,
        "list": b"usfmae embed OUT\n" * 9,
    }[damage]
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=name) as error:
        load_weights(file)
    assert "\n" not in str(error.value)


def test_what_is_no_vit_and_what_is_not_there(tmp_path: Path) -> None:
    safetensors.torch.save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match="not the weights of a ViT or MAE"):
        load_weights(tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="neither a run"):
        load_weights(tmp_path)
    four = dict(awake(small()).state_dict()) | {"patch_embed.proj.weight": torch.zeros(48, 4, 8, 8)}
    safetensors.torch.save_file(four, tmp_path / "four.safetensors")
    with pytest.raises(WeightsError, match="images of 4 channels"):
        load_weights(tmp_path / "four.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        load_weights(tmp_path / "list.pt")
