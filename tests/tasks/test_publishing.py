"""A model published to a local Hub loads from there in timm, transformers and here, and gives what it gives here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml

import openus.publish.hub
from tests.helpers.hub import serving_hub
from tests.helpers.hub_state import Hub
from tests.tasks.conftest import Ended
from usfmae.model.weights import build_mae, load_weights, save_weights
from usfmae.tasks.exchange.publishing import without_paths
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import load_recipe

Cli = Callable[..., Ended]
LOAD = """
import sys, timm, torch
from huggingface_hub import snapshot_download
from transformers import ViTMAEForPreTraining
from usfmae.model.weights import load_weights

images, noise = torch.load(sys.argv[1], weights_only=True)
encoder = timm.create_model("hf_hub:ORG/mae", pretrained=True).eval()
model = ViTMAEForPreTraining.from_pretrained("ORG/mae", subfolder="transformers").eval()
weights = load_weights(snapshot_download("ORG/mae") + "/usfmae")
with torch.inference_mode():
    out = {"timm": encoder.forward_features(images), "loss": model(images, noise=noise).loss}
torch.save({**out, "keys": sorted(weights.state)}, sys.argv[2])
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving_hub() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(openus.publish.hub, "WAIT", 0.05)
        monkeypatch.setenv("HF_TOKEN", found.token)
        yield found


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Path:
    """A checkpoint that knows where on a machine it was made."""
    found = load_weights(weights)
    facts = {
        "corpus": {"name": "openus-46", "root": "/data/jane.doe/openus-46"},
        "recipe": {"optim": {"lr": 0.001}},
    }
    save_weights(tmp_path / "run", found.state, {"model": found.model.to_dict(), **facts})
    return tmp_path / "run"


def test_from_the_hub_into_timm_and_transformers(hub: Hub, run: Path, usfmae: Cli, tmp_path: Path) -> None:
    hub.trouble("POST .*/commit/", status=503)
    end = usfmae("publish", run, "--to", "hf://ORG/mae", "--json")
    assert end.returncode == 0, end.stderr
    assert json.loads(end.stdout)["forms"] == ["timm", "hf-vitmae", "safetensors"]
    files = hub.repo("ORG/mae", "model").files
    assert {"README.md", "config.json", "model.safetensors", "usfmae/weights.safetensors"} <= set(files)
    assert not any(b"jane.doe" in blob.content for blob in files.values())
    card = files["README.md"].content.decode()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["library_name"] == "timm" and header["license"] == "other"
    assert "hf_hub:ORG/mae" in card and 'subfolder="transformers"' in card and "- name: `openus-46`" in card

    images, noise = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(1)), torch.rand(2, 9)
    torch.save((images, noise), tmp_path / "in.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "in.pt"), str(tmp_path / "out.pt")], capture_output=True, text=True,
        env=os.environ | hub.environment(tmp_path / "home"), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = torch.load(tmp_path / "out.pt", weights_only=True)
    ours = load_weights(run)
    mae = build_mae(ours).eval()
    with torch.inference_mode():
        assert torch.allclose(theirs["timm"], mae.features(images), atol=1e-5)
        assert torch.allclose(theirs["loss"], mae(images, noise).loss, atol=1e-5)
    assert theirs["keys"] == sorted(ours.state)


def test_a_classifier_goes_in_the_form_that_holds_it(
    hub: Hub, run: Path, corpus: Path, usfmae: Cli, tmp_path: Path
) -> None:
    model = tmp_path / "classifier"
    recipe = load_recipe("finetune-demo", ["size=48", "epochs=1", "resamples=20"])
    finetune(corpus, "bus-bra", Start(weights=str(run)), recipe, model, folds=[1], device="cpu", quiet=True)
    end = usfmae("publish", model, "--to", "hf://ORG/classifier", "--license", "cc-by-4.0")
    assert end.returncode == 0, end.stderr
    assert "not as timm: fine-tuned with its patches averaged" in end.stdout
    files = hub.repo("ORG/classifier", "model").files
    assert {name for name in files if name.endswith(".safetensors")} == {"usfmae/weights.safetensors"}
    card = files["README.md"].content.decode()
    assert (
        "Not in the form `timm`" in card
        and "license: cc-by-4.0" in card
        and "usfmae predict MODEL/usfmae" in card
    )
    assert "pipeline_tag: image-classification" in card and str(tmp_path) not in card


def test_a_folder_a_dry_run_and_a_wrong_token(
    hub: Hub, run: Path, usfmae: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = usfmae("publish", run, "--to", "hf://ORG/mae", "--dry-run")
    assert end.returncode == 0 and "model.safetensors" in end.stdout and "Nothing was sent" in end.stdout
    assert not hub.repos
    end = usfmae("publish", run, "--to", tmp_path / "shelf" / "mae")
    assert end.returncode == 0 and load_weights(tmp_path / "shelf" / "mae" / "usfmae").state, end.stderr
    monkeypatch.setenv("HF_TOKEN", "hf_nobodysTokenAtAll")
    end = usfmae("publish", run, "--to", "hf://ORG/mae")
    assert end.returncode == 2 and "does not accept the token" in end.stderr
    assert "nobodysTokenAtAll" not in end.stderr + end.stdout


def test_paths_stay_at_home() -> None:
    facts = {
        "a": ["/data/jane/x", "~/y/", "C:\\Users\\jane\\z", "file:///m/n"],
        "b": "images/a.png",
        "c": "hf://o/n",
    }
    assert without_paths(facts) == {"a": ["x", "y", "z", "n"], "b": "images/a.png", "c": "hf://o/n"}
