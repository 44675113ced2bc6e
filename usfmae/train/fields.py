"""Between nested values of a YAML file and frozen dataclasses: nothing unknown, nothing of the wrong kind."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from openus.errors import UsageError, did_you_mean


def set_field(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UsageError(f"--set wants FIELD=VALUE, like training.epochs=3; found '{override}'")
    *parents, leaf = name.strip().split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {override}: '{parent}' has no fields of its own")
    try:
        place[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: not a value ({' '.join(str(error).split())})") from error


def build(cls: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(
            f"{where}: {prefix.rstrip('.') or 'a recipe'} must be a group of fields, found '{values}'"
        )
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; known: {', '.join(known)}"
            raise UsageError(f"{where}: unknown field '{prefix}{name}'{hint}")
        kind = hints[name]
        if is_dataclass(kind):
            made[name] = build(typing.cast(type, kind), value, where, f"{prefix}{name}.")
        else:
            made[name] = _convert(value, kind, f"{where}: {prefix}{name}")
    try:
        return cls(**made)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _convert(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind` where nothing is lost (1 -> 1.0, "1e-4" -> 1e-4, list -> tuple); else `UsageError`."""
    if typing.get_origin(kind) is tuple:
        args = typing.get_args(kind)
        if isinstance(value, list | tuple) and (args[-1] is Ellipsis or len(value) == len(args)):
            return tuple(_convert(item, args[0], where) for item in value)
    elif typing.get_origin(kind) is dict:
        if isinstance(value, Mapping):
            return {str(k): _convert(v, typing.get_args(kind)[1], f"{where}.{k}") for k, v in value.items()}
    elif kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except (TypeError, ValueError):
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = str(kind) if isinstance(kind, types.GenericAlias) else getattr(kind, "__name__", str(kind))
    raise UsageError(f"{where} must be {name}, found '{value}'")


def one_of(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise UsageError(
            f"{name} must be one of {', '.join(known)}; found '{value}'{did_you_mean(value, known)}"
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
