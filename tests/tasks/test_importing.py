"""Other people's weights: generated checkpoints of the exact layouts give the same features as their own models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

from openus.errors import OpenUSError
from tests.tasks.conftest import Ended
from usfmae.model.foreign import recognise
from usfmae.model.layouts import WeightsError
from usfmae.model.mae import IMAGENET_MEAN, IMAGENET_STD, MAE, MAEConfig
from usfmae.model.weights import build_encoder, build_mae, load_weights
from usfmae.tasks.exchange.importing import import_weights
from usfmae.tasks.network.build import build
from usfmae.tasks.network.start import Start
from usfmae.tasks.network.timm import from_state

Cli = Callable[..., Ended]
COLOUR = {"in_chans": 3, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
SMALL = MAEConfig(
    img_size=48, embed_dim=64, depth=2, num_heads=1,
    decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1, **COLOUR,
)  # fmt: skip


def stirred(module: torch.nn.Module, seed: int = 0) -> Any:
    """No parameter at its initial zeros and ones, where a mix-up would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return module.eval()


def colour(images: Tensor) -> Tensor:
    """Grey 0..1 [B,1,S,S] as three channels under ImageNet's normalisation."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def tokens_of(folder: Path, images: Tensor) -> Tensor:
    """What the imported encoder makes of grey images, in our one-channel form."""
    encoder = build_encoder(load_weights(folder), img_size=images.shape[-1], global_pool="token").eval()
    mean, std = (torch.tensor(encoder.pretrained_cfg[k]).view(1, 1, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        return encoder.forward_features((images - mean) / std)


@pytest.fixture
def grey() -> Tensor:
    return torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wrapper", ["bare", "model", "state_dict", "module."])
def test_reference_mae_and_usf_mae(wrapper: str, grey: Tensor, tmp_path: Path) -> None:
    """The released USF-MAE files are bare state dictionaries of encoder and decoder; Facebook's have a wrapper."""
    mae = stirred(MAE(SMALL))
    state: dict[str, Any] = dict(mae.state_dict())
    if wrapper == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    elif wrapper != "bare":
        state = {wrapper: state, "epoch": 100}
    torch.save(state, tmp_path / "USF-MAE.pt")
    account = import_weights(tmp_path / "USF-MAE.pt", tmp_path / "out")
    assert account["layout"] == "reference MAE, encoder and decoder" and account["decoder"]
    assert account["left_out"] == {} and account["tensors"] == len(mae.state_dict())
    weights = load_weights(tmp_path / "out")
    assert weights.model.positions == "learned"  # stirred above, no longer the sine and cosine table
    with torch.inference_mode():
        assert torch.allclose(tokens_of(tmp_path / "out", grey), mae.features(colour(grey)), atol=1e-4)
        noise = torch.rand(2, 9)
        rebuilt = build_mae(weights)
        assert torch.allclose(rebuilt(colour(grey), noise).loss, mae(colour(grey), noise).loss, atol=1e-6)


def test_encoder_only_release_and_its_missing_decoder(grey: Tensor, tmp_path: Path) -> None:
    mae = stirred(MAE(SMALL))
    state = {k: v for k, v in mae.state_dict().items() if not k.startswith(("decoder", "mask_token"))}
    torch.save({"model": state}, tmp_path / "mae_pretrain_vit_base.pth")
    account = import_weights(tmp_path / "mae_pretrain_vit_base.pth", tmp_path / "out")
    assert account["layout"] == "ViT encoder (timm names)" and not account["decoder"]
    with pytest.raises(WeightsError, match="hold only an encoder"):
        build_mae(load_weights(tmp_path / "out"))


@pytest.mark.parametrize("names", ["stored", "in memory", "without vit."])
def test_hugging_face_vit_mae(names: str, grey: Tensor, tmp_path: Path) -> None:
    config = ViTMAEConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, image_size=48, patch_size=16,
        decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=1,
        decoder_intermediate_size=128, mask_ratio=0.0, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = stirred(ViTMAEForPreTraining(config))
    if names == "stored":
        model.save_pretrained(tmp_path / "hf")
    else:
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        if names == "without vit.":
            state = {k.removeprefix("vit."): v for k, v in state.items() if not k.startswith("decoder.")}
        (tmp_path / "hf").mkdir()
        save_file(state, tmp_path / "hf" / "model.safetensors")
        (tmp_path / "hf" / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "hf" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD})
    )
    account = import_weights(tmp_path / "hf", tmp_path / "out")
    assert account["layout"] == ("Hugging Face ViT" if names == "without vit." else "Hugging Face ViTMAE")
    assert account["normalisation"] == "from preprocessor_config.json"
    assert load_weights(tmp_path / "out").model.num_heads == 4  # from config.json; the shapes do not say it
    with torch.inference_mode():
        # A noise that rises along the grid keeps the patches in their order.
        out = model.vit(colour(grey), noise=torch.arange(9.0).repeat(2, 1)).last_hidden_state
    assert torch.allclose(tokens_of(tmp_path / "out", grey), out, atol=1e-4)


def test_hugging_face_vit_with_a_head(grey: Tensor, tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, image_size=48,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    model = stirred(ViTForImageClassification(config))
    model.save_pretrained(tmp_path / "hf")
    account = import_weights(tmp_path / "hf", tmp_path / "out", mean=0.5, std=0.25)
    assert account["left_out"] == {"heads of other tasks": ["classifier.bias", "classifier.weight"]}
    assert account["normalisation"] == "as given"
    with torch.inference_mode():
        out = model.vit((grey.expand(-1, 3, -1, -1) - 0.5) / 0.25).last_hidden_state
    assert torch.allclose(tokens_of(tmp_path / "out", grey), out, atol=1e-4)


def test_timm_vit_with_a_head(grey: Tensor, tmp_path: Path) -> None:
    vit = stirred(
        timm.create_model(
            "vit_tiny_patch16_224", img_size=48, embed_dim=64, depth=2, num_heads=1, num_classes=10
        )
    )
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    account = import_weights(tmp_path / "vit.pth", tmp_path / "out")
    assert account["left_out"] == {"heads of other tasks": ["head.weight", "head.bias"]}
    with torch.inference_mode():
        assert torch.allclose(
            tokens_of(tmp_path / "out", grey), vit.forward_features(colour(grey)), atol=1e-4
        )


def test_dinov2_folds_layer_scale_and_is_not_taken_for_a_decoder(tmp_path: Path) -> None:
    """Its `mask_token` [1, D] is no decoder's; patches are of 14 pixels."""
    vit = stirred(
        timm.create_model(
            "vit_small_patch14_dinov2", img_size=56, embed_dim=64, depth=2, num_heads=1, num_classes=0
        )
    )
    state = dict(vit.state_dict()) | {"mask_token": torch.zeros(1, 64)}
    torch.save({"teacher": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "dinov2.pth")
    account = import_weights(tmp_path / "dinov2.pth", tmp_path / "out")
    assert account["layout"] == "DINOv2" and not account["decoder"] and len(account["folded"]) == 4
    assert account["left_out"] == {"heads of other tasks": ["mask_token"]}
    images = torch.rand(2, 1, 56, 56)
    with torch.inference_mode():
        assert torch.allclose(
            tokens_of(tmp_path / "out", images), vit.forward_features(colour(images)), atol=1e-4
        )


@pytest.mark.parametrize("key", ["rope", "register_tokens", "reg_token"])
def test_what_a_plain_vit_cannot_represent(key: str, tmp_path: Path) -> None:
    state = dict(MAE(SMALL).state_dict())
    if key == "rope":
        del state["pos_embed"]
    else:
        state[key] = torch.zeros(1, 4, 64)
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(WeightsError, match=r"cannot represent .* --model NAME --weights FILE"):
        import_weights(tmp_path / "dino.pth", tmp_path / "out")


# SAM ViT-B: windows of 14, global attention in blocks 2, 5, 8, 11. Built at its true size, 94 million parameters.


@pytest.fixture(scope="module")
def sam() -> Any:
    torch.manual_seed(0)
    return stirred(timm.create_model("samvit_base_patch16", num_classes=0))


def mmpretrain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of a SAM encoder in those of mmpretrain's ViTSAM, which UltraSam's detector calls backbone."""
    pairs = (
        ("patch_embed.proj.", "patch_embed.projection."), ("blocks.", "layers."), (".norm", ".ln"),
        (".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1."), ("neck.", "channel_reduction."),
    )  # fmt: skip
    renamed = {}
    for key, value in state.items():
        for ours, theirs in pairs:
            key = key.replace(ours, theirs)
        renamed[f"backbone.{key}"] = value
    return renamed


@pytest.mark.parametrize("layout", ["sam", "ultrasam"])
def test_sam_and_ultrasam(layout: str, sam: Any) -> None:
    state = {k: v for k, v in sam.state_dict().items() if not k.startswith("head.")}
    if layout == "sam":
        saved: dict[str, Any] = {
            f"image_encoder.{k}".replace("mlp.fc", "mlp.lin"): v for k, v in state.items()
        }
        saved["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 256)
        saved["mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    else:
        extra = {
            "prompt_encoder.label_encoder.weight": torch.zeros(3, 256),
            "bbox_head.iou.bias": torch.zeros(4),
        }
        saved = {
            "meta": {"iter": 30000, "mmengine_version": "0.10"},
            "state_dict": mmpretrain_names(state) | extra,
        }
    found = recognise(saved, "w.pth")
    assert found.family == "timm" and found.name == "samvit_base_patch16" and len(found.state) == len(state)
    assert [len(keys) for keys in found.left_out.values()] == [2]
    config = {"architecture": {"name": found.name}, "input": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}}
    network = from_state(config, found.state, "w.pth", outputs=2, size=64).eval()
    images = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        ours = network.body.forward_features(network.normalise(images))
        assert torch.allclose(ours, sam.forward_features(colour(images)), atol=1e-4)


def test_sam_is_not_taken_for_a_plain_vit(sam: Any, tmp_path: Path) -> None:
    state = {
        f"image_encoder.{k}".replace("mlp.fc", "mlp.lin"): v[:1]
        for k, v in sam.state_dict().items()
        if "0" in k
    }
    state["image_encoder.patch_embed.proj.weight"] = sam.state_dict()["patch_embed.proj.weight"]
    torch.save(state, tmp_path / "sam_vit_b.pth")
    with pytest.raises(WeightsError, match=r"SAM, not a plain ViT; .* usfmae import"):
        load_weights(tmp_path / "sam_vit_b.pth")


def test_ultrasam_with_the_history_mmengine_saves(tmp_path: Path) -> None:
    """A training checkpoint of mmengine pickles objects of its own: refused in one line, nothing executed."""

    class HistoryBuffer:
        pass

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "tests.tasks.test_importing", "HistoryBuffer"
    globals()["HistoryBuffer"] = HistoryBuffer
    torch.save({"message_hub": HistoryBuffer(), "state_dict": {"a": torch.zeros(1)}}, tmp_path / "iter.pth")
    with pytest.raises(WeightsError, match="refused, the file holds pickled code"):
        import_weights(tmp_path / "iter.pth", tmp_path / "out")


def test_keys_nobody_knows_are_an_error_not_a_loss(tmp_path: Path) -> None:
    state = dict(MAE(SMALL).state_dict()) | {"blocks.0.adapter.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "adapted.pth")
    with pytest.raises(WeightsError, match=r"1 keys .* no place for \(first: blocks.0.adapter.weight\)"):
        import_weights(tmp_path / "adapted.pth", tmp_path / "out")
    state = {k: v for k, v in MAE(SMALL).state_dict().items() if k != "blocks.1.mlp.fc2.bias"}
    torch.save(state, tmp_path / "holed.pth")
    with pytest.raises(WeightsError, match=r"1 missing: blocks.1.mlp.fc2.bias"):
        import_weights(tmp_path / "holed.pth", tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_query_without_key_and_value(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=128, image_size=32
    )
    state = dict(ViTForImageClassification(config).state_dict())
    state.pop("vit.layers.0.attention.k_proj.weight")
    with pytest.raises(WeightsError, match="needs query, key and value; found only 2"):
        recognise(state, "hf")


def test_any_timm_model_from_a_local_file(tmp_path: Path) -> None:
    cnn = stirred(timm.create_model("resnet10t", num_classes=7))
    save_file({k: v.contiguous() for k, v in cnn.state_dict().items()}, tmp_path / "r.safetensors")
    network = build(
        Start(timm="resnet10t", weights=str(tmp_path / "r.safetensors")), outputs=2, size=64
    ).eval()
    assert network.mean.shape == (1, 3, 1, 1)
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        ours = network.body.forward_features(network.normalise(images))
        assert torch.allclose(ours, cnn.forward_features(network.normalise(images)), atol=1e-4)
    with pytest.raises(WeightsError, match=r"r.safetensors: not the weights of timm's 'resnet18'"):
        build(Start(timm="resnet18", weights=str(tmp_path / "r.safetensors")), outputs=2, size=64)


def test_unreachable_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OpenUSError, match=r"published weights of 'resnet10t' cannot be had"):
        build(Start(timm="resnet10t", pretrained=True), outputs=2, size=64)


def test_command(usfmae: Cli, tmp_path: Path) -> None:
    torch.save(MAE(SMALL).state_dict(), tmp_path / "mae.pt")
    end = usfmae("import", tmp_path / "mae.pt", "-o", tmp_path / "out")
    assert end.returncode == 0 and "reference MAE, encoder and decoder" in end.stdout
    assert "normalisation assumed: ImageNet's" in end.stdout
    end = usfmae("import", tmp_path / "absent.pt", "-o", tmp_path / "out")
    assert end.returncode == 1 and "no such file or folder" in end.stderr
    end = usfmae("import", tmp_path / "mae.pt", "-o", tmp_path / "out", "--mean", 0.5)
    assert end.returncode == 2 and "--mean and --std go together" in end.stderr
