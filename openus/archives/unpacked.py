"""Formats that must be unpacked before their members can be read: rar and 7z.

Members are written under numbers, never under their own names, so no name can harm the disk. A folder is
renamed into place when it is complete; its `index.json` is the marker that later runs and other workers use.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from openus.archives.limits import Budget, refused
from openus.archives.names import is_litter, safe_name
from openus.archives.store import CHUNK, Item, Store, length_of, rim
from openus.errors import ArchiveError, MissingExtraError

RAR_TOOLS = ("unrar", "unar", "7zz", "7z", "bsdtar")
RAR_HINT = (
    "install one of: unar ('apt install unar', 'brew install unar'), unrar, or 7-Zip with rar support "
    "('apt install 7zip 7zip-rar', 'brew install sevenzip')"
)


class UnpackedStore(Store):
    """A folder of numbered files with an index, filled on first use by `fill(folder) -> {name: number}`."""

    random = True

    def __init__(
        self, label: str, place: Path, budget: Budget, fill: Callable[[Path], dict[str, str]]
    ) -> None:
        self.label, self._place, self._budget, self._fill = label, place, budget, fill

    def items(self) -> list[Item]:
        if not (self._place / "index.json").is_file():
            self._unpack()
        index: dict[str, str] = json.loads((self._place / "index.json").read_text("utf-8"))
        items = []
        for name, number in index.items():
            path = self._place / number
            size = path.stat().st_size
            self._budget.charge(self.label, name, size)
            items.append(Item(name, size, path))
        return items

    def _unpack(self) -> None:
        self._place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=self._place.name + ".", dir=self._place.parent))
        try:
            index = self._fill(partial)
            (partial / "index.json").write_text(json.dumps(index, ensure_ascii=False), "utf-8")
            try:
                partial.rename(self._place)
            except OSError:  # another worker was faster; its copy is the same
                if not (self._place / "index.json").is_file():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def open(self, item: Item) -> BinaryIO:
        return Path(item.token).open("rb")

    def viewable(self, item: Item) -> bool:
        return True


def check_members(
    label: str, members: Sequence[tuple[str, int, bool]], stored: int, budget: Budget
) -> dict[str, str]:
    """Names of (raw name, size, is plain file) checked before anything is unpacked: {raw name: safe name}."""
    scratch = Budget(budget.limits)  # the real budget is charged once the files are there
    safe: dict[str, str] = {}
    seen: set[str] = set()
    for raw, size, plain in members:
        name = safe_name(raw, label)
        if not plain:
            raise refused(label, name, "it is a link or a special file, not a plain file")
        if not name or is_litter(name):
            continue
        if name in seen:
            raise refused(label, name, "two files of this archive have this name")
        seen.add(name)
        scratch.charge(label, name, size)
        safe[raw] = name
    scratch.check_ratio(label, scratch.bytes, stored)
    return safe


def fill_rar(
    label: str, paths: Callable[[], Sequence[Path]], budget: Budget
) -> Callable[[Path], dict[str, str]]:
    """Unpack a rar (first part first) through `rarfile` and one of `RAR_TOOLS`."""

    def fill(folder: Path) -> dict[str, str]:
        try:
            import rarfile
        except ImportError as error:
            raise MissingExtraError("rarfile", "archives", f"reading {label}") from error
        parts = paths()
        try:
            with rim(label), rarfile.RarFile(parts[0], errors="strict") as archive:
                if archive.needs_password():
                    raise _encrypted(label)
                infos = [info for info in archive.infolist() if not info.is_dir()]
                members = [(info.filename, info.file_size, info.is_file()) for info in infos]
                safe = check_members(label, members, sum(part.stat().st_size for part in parts), budget)
                wanted = {info.filename: info for info in infos}
                return _write(label, folder, safe, lambda raw: archive.open(wanted[raw]))
        except ArchiveError as error:
            if isinstance(error.__cause__, rarfile.RarCannotExec):
                raise ArchiveError(f"{label}: a rar needs an external tool; {RAR_HINT}") from error
            raise

    return fill


def _write(
    label: str, folder: Path, safe: dict[str, str], reader_of: Callable[[str], BinaryIO]
) -> dict[str, str]:
    index = {}
    for number, (raw, name) in enumerate(safe.items()):
        with rim(label, name), reader_of(raw) as reader, (folder / f"{number:06}").open("xb") as out:
            shutil.copyfileobj(reader, out, CHUNK)
        index[name] = f"{number:06}"
    return index


def fill_7z(label: str, opener: Callable[[], BinaryIO], budget: Budget) -> Callable[[Path], dict[str, str]]:
    """Unpack a 7z through `py7zr`."""

    def fill(folder: Path) -> dict[str, str]:
        try:
            import py7zr
        except ImportError as error:
            raise MissingExtraError("py7zr", "archives", f"reading {label}") from error
        with rim(label), opener() as reader, py7zr.SevenZipFile(reader) as archive:
            if archive.needs_password():
                raise _encrypted(label)
            infos = [info for info in archive.list() if not info.is_directory]
            members = [
                (info.filename, info.uncompressed, info.is_file and not info.is_symlink) for info in infos
            ]
            safe = check_members(label, members, length_of(reader), budget)
            numbers = {raw: f"{number:06}" for number, raw in enumerate(safe)}
            archive.extract(targets=list(safe), factory=_numbered_files(folder, numbers))
            return {
                safe[raw]: number for raw, number in numbers.items() if _present(label, folder, number, raw)
            }

    return fill


def _present(label: str, folder: Path, number: str, raw: str) -> bool:
    if not (folder / number).is_file():
        raise ArchiveError(
            f"{label}: damaged: member {raw!r} was not unpacked; delete the file and fetch it again"
        )
    return True


def _numbered_files(folder: Path, numbers: dict[str, str]) -> Any:
    from py7zr.io import Py7zIO, WriterFactory

    class NumberedFile(Py7zIO):
        def __init__(self, path: Path) -> None:
            self._out = path.open("w+b")

        def write(self, s: bytes | bytearray) -> int:
            return self._out.write(s)

        def read(self, size: int | None = None) -> bytes:
            return self._out.read(-1 if size is None else size)

        def seek(self, offset: int, whence: int = 0) -> int:
            return self._out.seek(offset, whence)

        def flush(self) -> None:
            self._out.flush()

        def size(self) -> int:
            return os.fstat(self._out.fileno()).st_size

        def close(self) -> None:
            self._out.close()

    class Numbered(WriterFactory):
        def create(self, filename: str) -> Any:
            return NumberedFile(folder / numbers[filename])

    return Numbered()


def _encrypted(label: str) -> ArchiveError:
    return ArchiveError(
        f"{label}: is encrypted; ask the dataset's page for the password, "
        "unpack it by hand and give the folder"
    )


def required_tools(names: Sequence[str]) -> list[str]:
    """What is missing on this machine to read archives of these names: one line each, empty if nothing.

    Callers ask before a download, so that nobody fetches 20 GB of rar to learn that unrar is missing.
    """
    return list(_missing(sorted({name.lower() for name in names})))


def _missing(names: Sequence[str]) -> Iterator[str]:
    hint = "pip install 'openus[archives]'"
    rar = next((n for n in names if n.endswith((".rar", ".rar.001"))), None)
    seven = next((n for n in names if n.endswith((".7z", ".7z.001"))), None)
    if rar and importlib.util.find_spec("rarfile") is None:
        yield f"{rar}: reading rar needs the package 'rarfile'; install it with: {hint}"
    if rar and not any(shutil.which(tool) for tool in RAR_TOOLS):
        yield f"{rar}: a rar needs an external tool; {RAR_HINT}"
    if seven and importlib.util.find_spec("py7zr") is None:
        yield f"{seven}: reading 7z needs the package 'py7zr'; install it with: {hint}"
