"""The pages of docs/ are true: every block of commands runs on small data, or says above it why it is not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.docs.conftest import QUICK, TINY
from tests.helpers import pages

World = tuple[Path, str]

WALKED = {
    "add-a-source": "test_add_source.py",
    "publishing": "test_publishing.py",
    **dict.fromkeys(
        (
            "corpus",
            "duplicates",
            "evaluation",
            "loading",
            "pretraining",
            "quickstart",
            "rebuild",
            "troubleshooting",
        ),
        "test_pages.py",
    ),
}


def documents(repo: Path) -> list[Path]:
    return sorted((repo / "docs").glob("*.md"))


def test_every_block_of_commands_is_run_or_says_why_not(repo: Path) -> None:
    here = Path(__file__).parent
    for page in documents(repo):
        for block in pages.blocks(page):
            where = f"{page.name}:{block.line}"
            if block.language in ("sh", "console"):
                assert block.reason or page.stem in WALKED, f"{where}: no test runs this"
                assert not block.title or block.reason, f"{where}: {block.title}"
            else:
                hidden = [
                    line for line in block.text.splitlines() if line.startswith(("openus ", "usfmae ", "$ "))
                ]
                assert not hidden, f"{where}: commands in a block that is not 'sh': {hidden}"
                assert block.language != "bash", f"{where}: write sh"
    for page_name, test in WALKED.items():
        assert f'"{page_name}.md"' in (here / test).read_text(), f"{test} does not walk {page_name}.md"


@pytest.fixture(scope="module")
def quickstart(repo: Path, toy_build: World) -> tuple[Path, dict[str, str]]:
    """The world after the quick start, and what its commands printed; it leaves OUT, RUN and MODEL."""
    place, options = toy_build
    small = {
        "--source bus-bra --source stu-hospital --workers 4": options,
        "usfmae pretrain OUT --recipe demo": f"usfmae pretrain openus-46 {TINY}",
        "usfmae finetune OUT": f"usfmae finetune openus-46 {QUICK}",
    }
    return place, pages.walk(repo / "docs" / "quickstart.md", place, small)


def test_quick_start(repo: Path, quickstart: tuple[Path, dict[str, str]]) -> None:
    place, told = quickstart
    assert "bus-bra" in told["openus sources --anatomy breast --access open"]
    assert json.loads((place / "OUT" / "corpus.json").read_text())["sets"]["pretrain"]["samples"] > 8
    assert (place / "RUN" / "checkpoints").is_dir()
    assert "auroc" in (place / "MODEL" / "metrics.json").read_text().lower()
    assert "picture.png" in told["usfmae predict MODEL picture.png cine.dcm"]
    (python,) = [
        block for block in pages.blocks(repo / "docs" / "quickstart.md") if block.language == "python"
    ]
    done = pages.run(f"python - <<'END'\n{python.text}END\n", place)
    assert done.returncode == 0 and "truncated" in done.stdout, done.stdout + done.stderr


def test_the_corpus(repo: Path, quickstart: tuple[Path, dict[str, str]], toy_build: World) -> None:
    place, options = toy_build
    small = {
        "OUT --frames 2 ": f"TWO {options} --frames 2 ",
        "OUT --frames echonet-dynamic=4,32": f"FOUR {options} --frames toy-clips=4,2",
    }
    told = pages.walk(repo / "docs" / "corpus.md", place, small)
    assert "361," in next(iter(told.values()))
    whole, two, four = (
        json.loads((place / out / "corpus.json").read_text())["sources"]["toy-clips"]["frames"]["kept"]
        for out in ("OUT", "TWO", "FOUR")
    )
    assert whole > two > four == 2


def test_copies(repo: Path, toy_build: World) -> None:
    place, _ = toy_build
    small = {"~/scans": "scans", "'test/**'": "'test/**' --index fresh"}
    told = pages.walk(repo / "docs" / "duplicates.md", place, small)
    assert len(told) == 5
    assert "again.png" in (place / "copies.csv").read_text()
    assert "leak" in next(said for command, said in told.items() if "--held-out" in command)


def test_rebuild_and_troubleshooting(repo: Path, toy_build: World) -> None:
    place, _ = toy_build
    told = pages.walk(repo / "docs" / "rebuild.md", place, {})
    assert "echonet-dynamic" in next(iter(told.values()))
    told = pages.walk(repo / "docs" / "troubleshooting.md", place, {})
    json.loads(next(iter(told.values())))


@pytest.mark.long
def test_pretraining(repo: Path, toy_build: World) -> None:
    place, _ = toy_build
    small = {
        "--recipe base": TINY,
        "--set training.epochs=100": "",
        "--nproc-per-node 8": "--nproc-per-node 2",
        "--workers 8": "--workers 1",
        "runs/base --workers": "runs/two --workers",
    }
    pages.walk(repo / "docs" / "pretraining.md", place, small)
    assert all((place / "runs" / name / "done").exists() for name in ("base", "sector", "two"))


@pytest.mark.long
def test_loading(repo: Path, toy_build: World) -> None:
    place, _ = toy_build
    small = {
        "https://host/set-{000..012}.tar": "openus-46/pretrain/pretrain-{000000..000002}.tar",
        "samples=100000": "samples=32",
        "--recipe base": TINY,
    }
    page = repo / "docs" / "loading.md"
    pages.walk(page, place, small)
    (python,) = [block for block in pages.blocks(page) if block.language == "python"]
    text = python.text
    for old, new in {
        "cuda": "cpu",
        "batch_size=256": "batch_size=8",
        "size=224": "size=32",
        "workers=8": "workers=0",
    }.items():
        assert old in text
        text = text.replace(old, new)
    done = pages.run(f"python - <<'END'\n{text}print(images.shape)\nEND\n", place)
    assert "torch.Size([8, 1, 32, 32])" in done.stdout, done.stdout + done.stderr


@pytest.mark.long
def test_evaluation(repo: Path, quickstart: tuple[Path, dict[str, str]]) -> None:
    place, _ = quickstart
    (weights,) = list((place / "RUN" / "checkpoints").glob("*/weights.safetensors"))[-1:]
    shutil.copy(weights, place / "their_weights.safetensors")
    small = {
        "usfmae finetune OUT --benchmark": f"usfmae finetune openus-46 {QUICK} --benchmark",
        "usfmae probe OUT": "usfmae probe openus-46",
        "usfmae benchmark OUT": f"usfmae benchmark openus-46 {QUICK}",
        "--model scratch:small --model timm:resnet50": "--model timm:resnet10t",
        "--seeds 3": "--seeds 1",
        "usfmae embed OUT": "usfmae embed openus-46",
        "usfmae show RUN OUT": "usfmae show RUN openus-46",
        "--map umap": "--map pca",
        "their_weights.pth": "their_weights.safetensors",
        "MODEL": "FOLDS",
    }
    pages.walk(repo / "docs" / "evaluation.md", place, small)
    assert (place / "features.parquet").is_file() and list((place / "EXPORTED").rglob("*.onnx"))
