"""Where each ecosystem keeps its credentials. Only whether they are there is looked at, never what they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openus.errors import SourceError
from openus.hosts.kaggle import credentials
from openus.manifest import Route, Source

Place = tuple[str, str]
"""(where credentials lie, what is wrong with them); both empty where there are none."""


@dataclass(frozen=True, slots=True)
class Ecosystem:
    """name: of the host. look: finds credentials. needed: whether a route wants them. use: what they are for."""

    name: str
    look: Callable[[], Place]
    needed: Callable[[Route], bool]
    use: str
    hint: str

    def needed_by(self, source: Source) -> bool:
        """True if every route that needs no person wants these credentials."""
        routes = [route for route in source.routes if route.host != "manual"]
        return bool(routes) and all(self.needed(route) for route in routes)


def _environment(*names: str) -> Callable[[], Place]:
    def look() -> Place:
        there = [name for name in names if os.environ.get(name)]
        return (f"the environment ({', '.join(there)})", "") if len(there) == len(names) else ("", "")

    return look


def _kaggle() -> Place:
    try:
        if not credentials():
            return "", ""
    except (SourceError, OSError, UnicodeDecodeError) as error:
        return "", str(error)
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle").expanduser()
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the environment (KAGGLE_API_TOKEN)", ""
    token = next((folder / n for n in ("access_token", "access_token.txt") if (folder / n).is_file()), None)
    if token is not None:
        return str(token), _open_to_others(token)
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return "the environment (KAGGLE_USERNAME, KAGGLE_KEY)", ""
    return str(folder / "kaggle.json"), _open_to_others(folder / "kaggle.json")


def _open_to_others(path: Path) -> str:
    if os.name == "posix" and path.stat().st_mode & 0o077:
        return f"{path} can be read by other users of this machine; run: chmod 600 {path}"
    return ""


def _huggingface() -> Place:
    from huggingface_hub import constants, get_token

    if os.environ.get("HF_TOKEN"):
        return "the environment (HF_TOKEN)", ""
    return (constants.HF_TOKEN_PATH, "") if get_token() else ("", "")


def _is(*hosts: str, access: str | None = None) -> Callable[[Route], bool]:
    return lambda route: route.host in hosts and (access is None or route.access == access)


def _drive_folder(route: Route) -> bool:
    single = route.files and all(spec.url for spec in route.files)
    return route.host == "google-drive" and not single


ECOSYSTEMS: Sequence[Ecosystem] = (
    Ecosystem("Kaggle", _kaggle, lambda r: r.host.startswith("kaggle") and r.access != "open",
        "competitions and datasets behind an account",
        "create an API token in the settings of kaggle.com and keep it as ~/.kaggle/kaggle.json or set "
        "KAGGLE_API_TOKEN"),
    Ecosystem("Google", _environment("GOOGLE_API_KEY"), _drive_folder,
        "folders of more than 50 files, which the public page cuts off",
        "set GOOGLE_API_KEY to a key of the Drive API"),
    Ecosystem("Hugging Face", _huggingface, _is("huggingface", access="account"), "gated datasets",
        "hf auth login, or set HF_TOKEN"),
    Ecosystem("Zenodo", _environment("ZENODO_TOKEN"), _is("zenodo", access="request"), "restricted records",
        "set ZENODO_TOKEN"),
    Ecosystem("figshare", _environment("FIGSHARE_TOKEN"), _is("figshare", access="request"), "private articles",
        "set FIGSHARE_TOKEN"),
    Ecosystem("Dataverse", _environment("DATAVERSE_API_TOKEN"), _is("dataverse", access="request"),
        "restricted files", "set DATAVERSE_API_TOKEN"),
    Ecosystem("Girder", _environment("GIRDER_API_KEY"), _is("girder", access="account"), "closed collections",
        "set GIRDER_API_KEY"),
)  # fmt: skip
