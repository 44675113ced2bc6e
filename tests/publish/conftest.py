"""One corpus of every licence, built, verified and audited once; the commands run in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import pytest

import openus.publish.hub
import openus.publish.targets
from openus import console
from openus.cli import main
from tests.helpers import licensed
from tests.helpers.hub import serving_hub
from tests.helpers.hub_state import Hub


@dataclass
class Ended:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@dataclass
class Licensed:
    """A corpus of every licence, and the data and manifests it was built from."""

    root: Path
    inputs: dict[str, Path]
    manifests: Path

    def local(self, *slugs: str) -> list[str]:
        """`--local` of these sources, all of them where none is named."""
        return [word for slug in slugs or self.inputs for word in ("--local", f"{slug}={self.inputs[slug]}")]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Licensed:
    base = tmp_path_factory.mktemp("licensed")
    found = Licensed(
        base / "corpus", licensed.write_inputs(base / "in"), licensed.write_manifests(base / "manifests")
    )
    build = [
        "build",
        found.root,
        "--corpus",
        "licensed",
        "--manifests",
        found.manifests,
        "--cache",
        base / "cache",
    ]
    for words in (
        [*build, "--workers", "0", *found.local()],
        ["verify", found.root, "--workers", "0"],
        ["audit", found.root, "--sample", "6"],
    ):
        done = licensed.openus(*words)
        assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="session")
def published(made: Licensed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All its repositories, published into a folder by two workers."""
    target = tmp_path_factory.mktemp("published")
    done = licensed.openus("publish", made.root, "--to", target, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def corpus(made: Licensed, tmp_path: Path) -> Licensed:
    """A copy that a test may publish from and damage; times are kept, as `cp -a` keeps them."""
    shutil.copytree(
        made.root,
        tmp_path / "corpus",
        ignore=shutil.ignore_patterns("sources", "pack", "unpacked", ".publish"),
    )
    return Licensed(tmp_path / "corpus", made.inputs, made.manifests)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `openus` in this process, through its real entry point, with one worker: itself."""

    def call(*words: object) -> Ended:
        few = ["--workers", "0"] if words[0] in ("build", "publish", "verify") else []
        monkeypatch.setattr(sys, "argv", ["openus", *map(str, words), *few])
        with pytest.raises(SystemExit) as end:
            main()
        console._state.debug = False
        out, err = capsys.readouterr()
        return Ended(int(end.value.code or 0), out, err)

    return call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local Hub that the client in this process talks to, with a token that may write, and short waits."""
    with serving_hub() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", found.token)
        monkeypatch.setattr(openus.publish.hub, "WAIT", 0.05)
        monkeypatch.setattr(openus.publish.targets, "WAIT", 0.05)
        yield found
