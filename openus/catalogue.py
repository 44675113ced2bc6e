"""Reading manifests: from YAML files to checked models, with errors that name file, field and way out."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from openus.errors import ManifestError, a_few, did_you_mean
from openus.manifest import SCHEMA, Benchmark, Corpus, Source

Model = TypeVar("Model", bound=BaseModel)


def manifests_root() -> Path:
    """The folder of the manifests: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "manifests"
    return inside if inside.is_dir() else here.parent / "manifests"


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read and check one manifest; raise `ManifestError` with file, field and reason."""
    try:
        data = yaml.load(path.read_bytes(), Loader=_Loader)
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse(data, model, str(path))


def parse(data: Any, model: type[Model], where: str) -> Model:
    """Check what a manifest holds; `where` is what messages call it. Raises `ManifestError`."""
    if not isinstance(data, dict):
        raise ManifestError(f"{where}: expected a mapping of fields, found {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        raise ManifestError(
            f"{where}: schema {data.get('schema')!r} is not {SCHEMA}, the one this version reads; "
            "add 'schema: 1' or install the version the manifest was written for"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ManifestError(f"{where}: {_first_problem(error, model)}") from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that refuses a key written twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    problems = error.errors()
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    message = f"field '{where}': {first['msg']}"
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in model.model_fields.items()]
        message = f"unknown field '{where}'{did_you_mean(str(first['loc'][-1]), known)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return message + more


class Catalogue:
    """All manifests of one or several folders; later folders win, so that `--manifests DIR` adds or replaces."""

    def __init__(self, *extra: Path) -> None:
        self.roots = (manifests_root(), *extra)
        for root in extra:
            if not root.is_dir():
                raise ManifestError(f"{root}: no such folder of manifests")

    def _find(self, kind: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for index, root in enumerate(self.roots):
            folder = root / kind
            # A folder of one's own may hold the YAML files directly, without the sub-folder.
            loose = root if index and kind == "sources" and not folder.is_dir() else folder
            for path in sorted(loose.glob("*.yaml")):
                found[re.sub(r"^\d+-", "", path.stem)] = path
        return found

    def _one(
        self, kind: str, what: str, name: str, model: type[Model], paths: dict[str, Path] | None = None
    ) -> Model:
        paths = self._find(kind) if paths is None else paths
        if name not in paths:
            raise ManifestError(
                f"unknown {what} '{name}'{did_you_mean(name, paths)} (known: {a_few(sorted(paths), 12)})"
            )
        return read_yaml(paths[name], model)

    @functools.cached_property
    def slugs(self) -> tuple[str, ...]:
        """Slugs of all sources, by their number in OpenUS-46, then by name."""
        sources = sorted(self.sources(), key=lambda source: (source.number or 10**6, source.slug))
        return tuple(source.slug for source in sources)

    def source(self, slug: str) -> Source:
        return self._source(slug, self._find("sources"))

    def _source(self, slug: str, paths: dict[str, Path]) -> Source:
        source = self._one("sources", "source", slug, Source, paths)
        if source.slug != slug:
            raise ManifestError(f"{paths[slug]}: slug '{source.slug}' does not match the file name")
        return source

    def sources(self, slugs: Iterable[str] | None = None) -> Iterator[Source]:
        paths = self._find("sources")
        for slug in paths if slugs is None else slugs:
            yield self._source(slug, paths)

    def corpus(self, name: str) -> Corpus:
        """A corpus by name, or from a YAML file if `name` is a path."""
        if name.endswith((".yaml", ".yml")):
            return read_yaml(Path(name), Corpus)
        return self._one("corpora", "corpus", name, Corpus)

    def benchmark(self, name: str) -> Benchmark:
        return self._one("benchmarks", "benchmark", name, Benchmark)
