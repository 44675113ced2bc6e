"""Addresses become file systems with what each of them understands."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest

from openus.errors import UsageError
from openus.storage.places import file_system


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sftp://host/corpus", {}),
        ("SSH://host/corpus", {}),
        ("memory://corpus", {"use_listings_cache": False}),
        ("hf://datasets/a/b", {"use_listings_cache": False}),
    ],
)
def test_listings_are_asked_anew_where_they_would_be_kept(
    monkeypatch: pytest.MonkeyPatch, url: str, options: dict[str, Any]
) -> None:
    given: list[tuple[str, dict[str, Any]]] = []

    def url_to_fs(url: str, **options: Any) -> tuple[None, str]:
        given.append((url, options))
        return None, "corpus"

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    assert file_system(url) == (None, "corpus")
    assert given == [(url, options)]


def test_an_address_of_no_known_kind() -> None:
    with pytest.raises(UsageError, match="addresses of this kind are not known here"):
        file_system("moon://corpus")
