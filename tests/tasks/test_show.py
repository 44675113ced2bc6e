"""The page about a model: maps that are what they claim to be, and one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from openus.errors import UsageError
from tests.helpers.browser import headless
from tests.tasks.conftest import Ended
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.attention import gradient_map, rollout
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.features import extract
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import load_recipe
from usfmae.tasks.show import nearest, project

Cli = Callable[..., Ended]


class Page(HTMLParser):
    """Addresses a page refers to, and its headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def model(corpus: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shown") / "classifier"
    recipe = load_recipe("finetune-demo", ["size=48", "epochs=1", "resamples=20"])
    finetune(corpus, "bus-bra", Start(weights=str(weights)), recipe, out, folds=[1], device="cpu", quiet=True)
    return out


def test_rollout_is_the_product_of_what_the_layers_attend_to() -> None:
    """With queries and keys of zero every token attends to all alike: the rollout is known in closed form."""
    network = build(Start(size="tiny"), outputs=0, size=48, pool="token").eval()
    pixels = torch.rand(2, 1, 48, 48)
    found = rollout(network, pixels)
    assert found.shape == (2, 3, 3) and torch.allclose(found.sum((1, 2)), torch.ones(2), atol=1e-5)
    for block in network.body.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    assert torch.allclose(rollout(network, pixels), torch.full((2, 3, 3), 1 / 9), atol=1e-6)
    with pytest.raises(UsageError, match="needs a plain ViT"):
        rollout(build(Start(timm="test_resnet"), outputs=2, size=48), pixels)


def test_gradient_map_of_a_linear_head_by_hand() -> None:
    """The head is linear in the mean of the map, so features times gradient is known exactly."""
    network: Network = build(Start(timm="test_resnet"), outputs=2, size=64).eval()
    pixels = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        features = network.body.forward_features(network.normalise(pixels))
    weight = network.body.get_classifier().weight.detach()
    expected = torch.einsum("bchw,c->bhw", features, weight[1]).relu()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    found = gradient_map(network, pixels, torch.tensor([1, 1]))
    assert torch.allclose(found, expected, atol=1e-4)


def test_projection_and_neighbours() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 6)) * [9, 3, 1, 1, 1, 1]).astype(np.float32)
    points = project(features)
    assert (
        abs(np.corrcoef(points[:, 0], features[:, 0])[0, 1]) > 0.99
        and points[:, 0].std() > points[:, 1].std()
    )
    features[7] = features[3] * 2  # the same direction, but of the same patient
    features[8] = features[3] * 3
    patients = [str(i) for i in range(200)]
    patients[7] = patients[3]
    assert nearest(features, [3], patients)[0, 0] == 8 and 7 not in nearest(features, [3], patients)[0]
    assert (nearest(features, [3], ["one"] * 200) == -1).all()


def test_features_of_a_fine_tuned_model_have_its_norm(model: Path) -> None:
    """Fine-tuned on the mean of its patches: our features are what its classifier is given."""
    network = build(Start(weights=str(model)), outputs=0, size=48, pool="token").eval()
    images = np.random.default_rng(0).integers(0, 255, (3, 1, 48, 48)).astype(np.uint8)
    pixels = network.normalise(torch.from_numpy(images).float() / 255)
    with torch.inference_mode():
        expected = network.body.forward_head(network.body.forward_features(pixels), pre_logits=True)
    assert np.allclose(extract(network, images), expected, atol=1e-5)


def test_page_of_a_pretrained_model(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    end = usfmae("show", weights, corpus, "-o", tmp_path, "--count", 3, "--device", "cpu")
    assert end.returncode == 0 and str(tmp_path / "index.html") in end.stdout
    page = Page(tmp_path / "index.html")
    assert len(page.addresses) == 4 and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert any("no classes, so there are no gradient maps" in words for words in page.words)


@pytest.mark.long
def test_umap_keeps_neighbours_together_and_a_seed_decides() -> None:
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(3), 40)
    features = (10 * np.eye(3, 8)[which] + rng.normal(size=(120, 8))).astype(np.float32)
    points = project(features, "umap", 0)
    assert points.shape == (120, 2) and np.array_equal(points, project(features, "umap", 0))
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + np.where(np.eye(120), np.inf, 0)
    assert (which[apart.argmin(1)] == which).mean() > 0.95


def test_a_browser_shows_the_page_whole(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    assert (
        usfmae("show", weights, corpus, "-o", tmp_path, "--count", 2, "--device", "cpu", "-q").returncode == 0
    )
    with headless() as page:
        page.get((tmp_path / "index.html").as_uri())
        sizes = page.execute_script("return [...document.images].map(e => [e.naturalWidth, e.clientWidth])")
        assert len(sizes) == 4 and all(own > 0 and 0 < shown <= 1200 for own, shown in sizes)
        assert page.get_log("browser") == []
        wide = page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert wide, "the page must be scrolled sideways"


def test_page_of_a_classifier_by_label(usfmae: Cli, corpus: Path, model: Path, tmp_path: Path) -> None:
    words = ["--set", "bus-bra", "--colour", "pathology", "--count", 3, "--points", 40, "--device", "cpu"]
    end = usfmae("show", model, corpus, "-o", tmp_path, *words)
    assert end.returncode == 0, end.stderr
    page = Page(tmp_path / "index.html")
    assert len(page.addresses) == 3 and any("the model has no decoder" in words for words in page.words)
    assert any("40 of 120 images" in words for words in page.words)
    end = usfmae("show", model, corpus, "-o", tmp_path, "--set", "bus-bra", "--colour", "patholgy")
    assert end.returncode == 2 and "did you mean 'pathology'" in end.stderr
