"""The report of a toy corpus with every kind of trouble, looked at through a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openus.decode import decode_image
from openus.errors import CorpusError
from openus.report import write_report
from openus.report.cleaning import read_before
from openus.report.data import choose, read_facts, records
from openus.report.duplicates import _named, groups, matrix
from tests.commands.test_audit import build, write_home
from tests.helpers import toys
from tests.helpers.browser import headless


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    manifests, inputs = toys.write_manifests(folder / "manifests"), toys.write_inputs(folder / "inputs")
    out = folder / "corpus"
    done = toys.run(toys.command(out, manifests, inputs, "--workers", "0"))
    assert done.returncode == 0, done.stderr
    written = write_report(out)
    assert written.page == out / "report.html" and written.bytes < 15_000_000
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless() as page:
        yield page


def _visible(page: Any, selector: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent !== null)"
        ".map(e => e.dataset.source)"
    )
    found: list[str] = page.execute_script(script, selector)
    return found


def _choose(page: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", name)).select_by_visible_text(value)


def test_a_browser_shows_it_whole(corpus: Path, browser: Any) -> None:
    browser.get((corpus / "report.html").as_uri())
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('img[src]')].map(e => e.naturalWidth)"
    )
    assert len(sizes) > 40 and min(sizes) > 0
    assert browser.get_log("browser") == []
    assert _visible(browser, "tr.funnel") == ["toy-images", "toy-clips", "toy-bench"]
    for element in browser.find_elements("css selector", "nav a"):
        anchor = element.get_attribute("href").rsplit("#", 1)[1]
        assert browser.find_elements("id", anchor)


def test_filters_leave_what_was_asked_for(corpus: Path, browser: Any) -> None:
    browser.get((corpus / "report.html").as_uri())
    _choose(browser, "source", "toy-clips")
    assert _visible(browser, "tr.funnel") == ["toy-clips"]
    assert set(_visible(browser, "section.source[data-f]")) == {"toy-clips"}
    assert browser.find_element("id", "shown").text == "1 of 3 sources"
    _choose(browser, "source", "all")
    _choose(browser, "set", "bench")
    assert _visible(browser, "tr.funnel") == ["toy-bench"]
    assert set(_visible(browser, ".check[data-source]")) <= {"toy-bench"}
    _choose(browser, "set", "all")
    _choose(browser, "anatomy", "liver")
    assert _visible(browser, "tr.funnel") == ["toy-images"]
    _choose(browser, "anatomy", "all")
    assert len(_visible(browser, "tr.funnel")) == 3
    assert browser.get_log("browser") == []


def test_a_touched_picture_tells_its_facts(corpus: Path, browser: Any) -> None:
    browser.get((corpus / "report.html").as_uri())
    first = browser.find_element("css selector", "section .tile")
    browser.execute_script("arguments[0].click()", first)
    dialog = browser.find_element("id", "zoom")
    assert dialog.is_displayed()
    assert first.get_attribute("data-name") in dialog.text
    assert browser.execute_script("return document.querySelector('#zoom img').naturalWidth") > 0


def test_it_fits_a_phone(corpus: Path, browser: Any) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    browser.get((corpus / "report.html").as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 390


def test_it_loads_nothing(corpus: Path) -> None:
    text = (corpus / "report.html").read_text()
    addresses = set(re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"'#][^"']*)""", text))
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!example\.org)", text)


def test_duplicates_and_leaks_are_named(corpus: Path) -> None:
    facts = read_facts(corpus)
    names, counts = matrix(facts, groups(facts))
    found = {(names[i], names[j]): n for i, line in enumerate(counts) for j, n in enumerate(line) if n}
    assert found == {
        ("toy-images", "toy-images"): 1,
        ("toy-images", "toy-bench"): 1,
        ("toy-clips", "toy-clips"): 6,
    }
    text = (corpus / "report.html").read_text()
    assert "toy-images/pictures/leaked.png#0" in text and "toy-images/pictures/repeat.png#0" in text


def test_joins_of_pictures_that_stay_are_told_and_counted_once(corpus: Path) -> None:
    facts = read_facts(corpus)
    bench = facts.rows.index[facts.rows["source"] == "toy-bench"][:2]
    names = facts.rows["name"][bench].tolist()
    rows = facts.rows.copy()
    rows.loc[bench, "cluster"] = rows["cluster"][bench[0]]
    join = {"name_a": names[0], "name_b": names[1], "kind": "near", "score": 0.93, "distance": 7}
    join |= {"decision_a": "kept", "decision_b": "kept"}
    before = matrix(facts, groups(facts))[1]
    joined = replace(facts, rows=rows, duplicates=pd.DataFrame([join]))
    found = next(group for group in groups(joined) if any(j.reason == "kept" for j in group.joins))
    kept = [j for j in found.joins if j.reason == "kept"]
    assert [(j.left, j.right, j.detail) for j in kept] == [
        (names[1], names[0], f"near copy (0.93, 7 bits) of {names[0]}")
    ]
    assert sum(map(sum, matrix(joined, groups(joined))[1])) == sum(map(sum, before)) + 1


@pytest.mark.parametrize(
    "detail",
    ["same pixels as s/a b.png#0", "near copy (0.91) of s/a b.png#0", "12 bits from s/a b.png#0",
     "more than 60 frames of one clip, after s/a b.png#0"],
)  # fmt: skip
def test_names_with_spaces_are_whole(detail: str) -> None:
    assert _named(detail) == "s/a b.png#0"


def test_sheets_hold_the_pictures(corpus: Path) -> None:
    sheets = {path.name: path for path in (corpus / "report").iterdir()}
    assert sheets.keys() == {f"contact-{slug}.png" for slug in ("toy-images", "toy-clips", "toy-bench")}
    with Image.open(sheets["contact-toy-bench.png"]) as sheet:
        assert sheet.mode == "L" and sheet.getextrema()[1] > 200


def test_other_patients_come_first(corpus: Path) -> None:
    rows = read_facts(corpus).rows
    bench = rows[rows["source"] == "toy-bench"]
    for seed in range(5):
        assert choose(bench, 8, seed)["patient"].nunique() == 8
    first, other = choose(bench, 8, 0), choose(bench, 8, 1)
    assert set(first["key"]) != set(other["key"])
    assert list(choose(bench, 8, 0)["key"]) == list(first["key"])


def test_the_same_bytes_again(corpus: Path) -> None:
    before = toys.digests(corpus)
    command = [sys.executable, "-m", "openus.cli", "report", str(corpus), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(done.stdout)
    assert said["bytes"] == (corpus / "report.html").stat().st_size
    assert toys.digests(corpus) == before


def test_no_corpus_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        write_report(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy screens of a scanner, cleaned to their sectors."""
    home = tmp_path_factory.mktemp("screens")
    out = home / "out"
    write_home(home, [f"s{number:02d}" for number in range(70)])
    done = build(home, out, "--clean", "sector")
    assert done.returncode == 0, done.stderr
    return out


def test_sixty_before_and_after(cleaned: Path, browser: Any) -> None:
    browser.get((cleaned / "report.html").as_uri())
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.pair img')].map(e => [e.naturalWidth, e.naturalHeight])"
    )
    assert len(sizes) == 120 and sizes[::2] == sizes[1::2]  # each in its place in a frame of one size
    assert browser.get_log("browser") == []
    with Image.open(cleaned / "report" / "cleaning-screens.png") as sheet:
        assert sheet.mode == "L" and sheet.size[1] == 15 * 286
    first = browser.find_element("css selector", ".pair .tile")
    browser.execute_script("arguments[0].click()", first)
    assert first.get_attribute("data-name") in browser.find_element("id", "zoom").text


def test_what_is_shown_before_is_what_came(cleaned: Path) -> None:
    rows = {row["key"]: row for row in records(read_facts(cleaned).rows)}
    before = read_before(cleaned)["screens"]
    assert len(before) == 60
    for key, data in before.items():
        came = cv2.imread(str(cleaned.parent / "pictures" / rows[key]["member"]), cv2.IMREAD_GRAYSCALE)
        shown = decode_image(data)
        small = cv2.resize(came, shown.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - shown).mean() < 4


def test_a_print_breaks_no_picture(cleaned: Path, browser: Any) -> None:
    browser.get((cleaned / "report.html").as_uri())
    data = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(data).startswith(b"%PDF") and len(data) > 100_000
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = browser.execute_script("return getComputedStyle(document.querySelector('nav')).display")
    wide = browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == "none" and wide


def test_an_audit_that_found_something_is_the_first_thing_to_look_at(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    shutil.copytree(corpus, out, ignore=shutil.ignore_patterns(".work"))
    summary = json.loads((out / "corpus.json").read_text())
    summary["audit"] = {"counts": {"text": 3}, "searched": 10, "samples": 90}
    (out / "corpus.json").write_text(json.dumps(summary))
    write_report(out)
    text = (out / "report.html").read_text()
    assert "the audit searched 10 of 90 pictures and found: text 3" in text
    summary["audit"]["counts"] = {}
    (out / "corpus.json").write_text(json.dumps(summary))
    write_report(out)
    assert "the audit" not in (out / "report.html").read_text()
