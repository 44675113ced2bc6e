"""`openus sources` and `openus show` as a user sees them; the benchmark of the manifests runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openus.catalogue import Catalogue
from tests.helpers import toys


def openus(*words: str) -> subprocess.CompletedProcess[str]:
    return toys.run([sys.executable, "-m", "openus.cli", *words], COLUMNS="100")


def test_46_rows_readable_in_100_columns(tmp_path: Path) -> None:
    told = openus("sources", "--cache", str(tmp_path)).stdout.splitlines()
    assert max(map(len, told)) <= 100
    rows = [line for line in told if line[:2].strip().isdigit() and line[2:4] == "  "]
    assert [int(line[:2]) for line in rows] == list(range(1, 47))
    assert all(source.slug in line for source, line in zip(Catalogue().sources(), rows, strict=True))
    assert "10,030 clips" in rows[18], "files are told where nobody knows the frames"


def test_filters_and_json(tmp_path: Path) -> None:
    place = tmp_path / "stu-hospital" / "Hospital"
    place.mkdir(parents=True)
    (place / "a.png").write_bytes(b"\x89PNG")
    rows = json.loads(openus("sources", "--json", "--anatomy", "breast", "--cache", str(tmp_path)).stdout)
    assert {row["anatomy"] for row in rows} == {"breast"} and len(rows) == 7
    assert set(rows[0]) >= {
        "number",
        "slug",
        "anatomy",
        "kind",
        "access",
        "redistribution",
        "expected",
        "cached",
    }
    none = openus("sources", "--anatomy", "nose")
    assert none.returncode == 2 and "no source has anatomy=nose" in none.stderr
    wrong = openus("sources", "--kind", "vidoe").stderr
    assert "did you mean 'video'?" in wrong and "there are: image, video, volume" in wrong


def test_the_estimate_adds_up() -> None:
    rows = json.loads(openus("sources", "--estimate", "--json").stdout)
    total = sum(row["samples"] or 0 for row in rows)
    assert len(rows) == 46 and f"about {total:,} samples" in openus("sources", "--estimate").stdout
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"about {round(total, -3):,} pictures" in page, "the README says what the command says"


@pytest.mark.parametrize("slug", ["bus-bra", "gist514-db", "echonet-dynamic"])
def test_show_tells_routes_labels_and_traps(slug: str) -> None:
    source = Catalogue().source(slug)
    told = " ".join(openus("show", slug).stdout.split())
    assert all(route.host in told for route in source.routes) and source.licence.name.split()[0] in told
    assert all(f"label {name}" in told for name in source.expected.labels)
    assert json.loads(openus("show", slug, "--json").stdout)["slug"] == slug


def test_the_benchmark_ends_with_its_ratios(repo: Path) -> None:
    command = [sys.executable, "benchmarks/manifests.py", "--repeats", "1"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert set(answer["ratios"]) == set(answer["goals"]) == {"manifests", "help"}
    # One run on a busy machine is no measurement; far off is a regression all the same.
    assert answer["ratios"]["manifests"] < 9 and answer["ratios"]["help"] < 6
