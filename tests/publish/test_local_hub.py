"""The local Hub of the tests, driven by the real client: so that what is tested against it means something."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.hub import serving_hub
from tests.helpers.hub_state import TOKEN, Hub

CLIENT = """
import json, os, sys
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

api, folder = HfApi(), Path(sys.argv[1])
api.create_repo("ORG/set", repo_type="dataset", exist_ok=True)
api.create_repo("ORG/set", repo_type="dataset", exist_ok=True)
api.upload_folder(repo_id="ORG/set", repo_type="dataset", folder_path=folder)
api.upload_folder(repo_id="ORG/set", repo_type="dataset", folder_path=folder, delete_patterns=["*.tar"])
(folder / "a" / "more.tar").write_bytes(b"m" * 5000)
(folder / "a" / "data.tar").unlink()
api.upload_folder(repo_id="ORG/set", repo_type="dataset", folder_path=folder, delete_patterns=["*.tar"])
files = {f.path: [f.size, f.lfs.sha256 if f.lfs else f.blob_id]
         for f in api.list_repo_tree("ORG/set", repo_type="dataset", recursive=True) if hasattr(f, "size")}
system = HfFileSystem()
ranged = system.cat_file("datasets/ORG/set/a/more.tar", start=10, end=20).decode()
listed = sorted(system.find("datasets/ORG/set"))
got = Path(hf_hub_download("ORG/set", "card.txt", repo_type="dataset")).read_text()
snap = sorted(p.relative_to(s).as_posix() for s in [Path(snapshot_download("ORG/set", repo_type="dataset"))]
              for p in s.rglob("*") if p.is_file())
print(json.dumps([files, ranged, listed, got, snap, api.whoami()["name"]]))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(code: str, *words: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120,
            env=os.environ | hub.environment(tmp_path / "home", token),
        )  # fmt: skip

    return call


def test_the_client_commits_lists_and_reads_by_range(
    hub: Hub, client: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    import json

    hub.part_bytes = 3000
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    data = bytes(range(256)) * 30
    (folder / "a" / "data.tar").write_bytes(data)
    (folder / "card.txt").write_text("hello")
    done = client(CLIENT, folder)
    assert done.returncode == 0, done.stderr
    files, ranged, listed, text, snapshot, name = json.loads(done.stdout)
    assert files["a/more.tar"] == [5000, hashlib.sha256(b"m" * 5000).hexdigest()]
    assert set(files) == {"a/more.tar", "card.txt"} == set(snapshot)
    assert files["card.txt"] == [5, "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"]  # git hash-object of "hello"
    assert ranged == "m" * 10 and listed == ["datasets/ORG/set/a/more.tar", "datasets/ORG/set/card.txt"]
    assert text == "hello" and name == "someone"
    repo = hub.repo("ORG/set")
    assert [message for _, message, _ in repo.commits][1:] == ["Upload folder using huggingface_hub"] * 2
    assert repo.commits[1][2]["a/data.tar"].content == data
    assert hub.count("PUT .*/part/") == 3 + 2  # the second upload sent nothing again
    assert not any(asked.token for asked in hub.asked if asked.path.startswith("/storage/"))
