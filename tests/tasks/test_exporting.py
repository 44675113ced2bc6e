"""Exports load in the software they are for, and give there what they give here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTMAEForPreTraining, ViTModel

from openus.errors import UsageError
from tests.tasks.conftest import Ended
from usfmae.model.mae import MAE, MAEConfig
from usfmae.model.weights import build_mae, load_weights, save_weights
from usfmae.tasks.exchange.exporting import export
from usfmae.tasks.exchange.importing import import_weights
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.finetuned import load_model
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import load_recipe

Cli = Callable[..., Ended]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose parameters all differ from their initial values."""
    config = MAEConfig(
        img_size=48,
        embed_dim=64,
        depth=2,
        num_heads=4,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        norm_pix_loss=True,
        mean=(0.3,),
        std=(0.15,),
    )
    generator = torch.Generator().manual_seed(0)
    mae = MAE(config)
    with torch.no_grad():
        for value in mae.state_dict().values():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    facts = {"corpus": {"name": "openus-46", "fingerprint": "abc123"}, "recipe": {"optim": {"lr": 0.001}}}
    save_weights(folder, mae.state_dict(), {"model": config.to_dict(), **facts})
    return folder


@pytest.fixture(scope="module")
def model(corpus: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier fine-tuned from it."""
    out = tmp_path_factory.mktemp("model") / "classifier"
    recipe = load_recipe("finetune-demo", ["size=48", "epochs=1", "resamples=20"])
    finetune(corpus, "bus-bra", Start(weights=str(run)), recipe, out, folds=[1], device="cpu", quiet=True)
    return out


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(1))


def tokens(run: Path, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return build_mae(load_weights(run)).eval().features(images)


def test_timm(run: Path, images: Tensor, tmp_path: Path) -> None:
    export(run, tmp_path, "timm")
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert list(loaded.pretrained_cfg["mean"]) == [0.3]
    with torch.inference_mode():
        assert torch.allclose(loaded.forward_features(images), tokens(run, images), atol=1e-5)


@pytest.mark.parametrize("form", ["timm", "hf-vitmae", "hf-vit"])
def test_what_is_exported_comes_back_the_same(form: str, run: Path, images: Tensor, tmp_path: Path) -> None:
    """Heads and normalisation do not show in the tensors: the config.json beside them says both."""
    original = load_weights(run).model
    export(run, tmp_path / "out", form)
    import_weights(tmp_path / "out", tmp_path / "back")
    for folder in (tmp_path / "out", tmp_path / "back"):
        model = load_weights(folder).model
        assert (model.num_heads, model.mean, model.std) == (4, (0.3,), (0.15,))
        if form == "hf-vitmae":
            assert model.decoder_num_heads == 2 and model.norm_pix_loss == original.norm_pix_loss
            assert torch.allclose(tokens(folder, images), tokens(run, images), atol=1e-5)


def test_hugging_face_vit_mae(run: Path, images: Tensor, tmp_path: Path) -> None:
    export(run, tmp_path, "hf-vitmae")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in load_file(tmp_path / "model.safetensors")
    loaded, account = ViTMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not account["missing_keys"] and not account["unexpected_keys"] and not account["mismatched_keys"]
    noise = torch.rand(2, 9)
    with torch.inference_mode():
        ours = build_mae(load_weights(run)).eval()(images, noise)
        theirs = loaded.eval()(images, noise=noise)
    assert torch.allclose(ours.loss, theirs.loss, atol=1e-5)


def test_hugging_face_vit(run: Path, images: Tensor, tmp_path: Path) -> None:
    export(run, tmp_path, "hf-vit")
    assert "encoder.layer.1.output.dense.bias" in load_file(tmp_path / "model.safetensors")
    loaded, account = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not account["missing_keys"] and not account["unexpected_keys"]
    with torch.inference_mode():
        assert torch.allclose(loaded.eval()(images).last_hidden_state, tokens(run, images), atol=1e-5)


def test_onnx_features_of_an_encoder(run: Path, images: Tensor, tmp_path: Path) -> None:
    written = export(run, tmp_path, "onnx")
    assert written["difference"] <= 1e-4 and written["input"] == ["batch", 1, 48, 48]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = torch.from_numpy(session.run(None, {"grey": images.numpy()})[0])
    normal = (images - 0.3) / 0.15
    assert torch.allclose(found, tokens(run, normal)[:, 1:].mean(1), atol=1e-4)


def test_onnx_probabilities_of_a_classifier(model: Path, images: Tensor, tmp_path: Path) -> None:
    export(model, tmp_path, "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = torch.from_numpy(session.run(None, {"grey": images.numpy()})[0])
    loaded = load_model(model, "cpu")
    with torch.inference_mode():
        assert torch.allclose(found, loaded.link(loaded.network(images)), atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(2), atol=1e-5)


def test_safetensors_of_a_classifier_predicts_again(model: Path, images: Tensor, tmp_path: Path) -> None:
    export(model, tmp_path, "safetensors")
    first, second = load_model(model, "cpu"), load_model(tmp_path, "cpu")
    with torch.inference_mode():
        assert torch.equal(first.link(first.network(images)), second.link(second.network(images)))


def test_the_card_says_what_is_known_and_what_is_not(run: Path, model: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "a", "timm")
    card = (tmp_path / "a" / "README.md").read_text()
    for words in (
        "openus-46",
        "abc123",
        "optim.lr: 0.001",
        "local-dir:",
        "LICENSES.md",
        "Not a medical device",
    ):
        assert words in card
    export(model, tmp_path / "b", "safetensors")
    card = (tmp_path / "b" / "README.md").read_text()
    assert (
        "fine-tuned on `bus-bra`: benign, malignant" in card and "| auroc |" in card and "fold fold1" in card
    )


def test_what_a_format_cannot_hold(run: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        export(run, tmp_path, "onx")
    for form in ("timm", "hf-vit"):
        with pytest.raises(UsageError, match=r"patches averaged.*safetensors or onnx"):
            export(model, tmp_path, form)
    with pytest.raises(UsageError, match="holds only an encoder; export it as hf-vit"):
        export(model, tmp_path, "hf-vitmae")
    config = MAEConfig(
        img_size=48, embed_dim=64, depth=2, num_heads=4, decoder="cross", decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=2,
    )  # fmt: skip
    save_weights(tmp_path / "cross", MAE(config).state_dict(), {"model": config.to_dict()})
    with pytest.raises(UsageError, match=r"CrossMAE.*export it as hf-vit"):
        export(tmp_path / "cross", tmp_path / "x", "hf-vitmae")


def test_command(usfmae: Cli, run: Path, tmp_path: Path) -> None:
    end = usfmae("export", run, "-f", "hf-vit", "-o", tmp_path / "out")
    assert end.returncode == 0 and "README.md, config.json, model.safetensors" in end.stdout
    end = usfmae("export", tmp_path / "absent", "-o", tmp_path / "out2")
    assert end.returncode == 1 and "no such file or folder" in end.stderr
