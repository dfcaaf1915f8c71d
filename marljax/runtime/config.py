"""Configurations as JSON: frozen dataclasses, nested, to plain values and back by their type hints.

Reading is strict. A misspelt key would otherwise run an experiment other than the one that was meant.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from marljax.data.schema import InputError
from marljax.runtime.artefacts import jsonable

ConfigT = TypeVar("ConfigT")


def to_json(config: Any) -> Any:
    """The configuration as JSON values; `from_json` of it gives an equal one."""
    return jsonable(config)


def from_json(config_type: type[ConfigT], value: Any, default: ConfigT | None = None) -> ConfigT:
    """The configuration that `value` describes; keys it lacks are those of `default`, else of the type.

    Raises InputError for an unknown key (and names the closest known one), a missing one and a value of another type.
    """
    return _read(config_type, value, default, "")


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'seed'?`, or nothing where no known name is close."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def _read(hint: Any, value: Any, default: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _read(arguments[0], value, default, where)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, default, where)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise InputError(f"{where}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, default, where)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) != len(value):
            raise InputError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        return tuple(
            _read(argument, item, None, f"{where}[{index}]")
            for index, (argument, item) in enumerate(zip(arguments, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], item, None, f"{where}.{name}") for name, item in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and value is None:
        raise InputError(f"{where}: expected a finite number")
    # bool is an int to Python, but `true` is no seed.
    if type(value) is hint or (value is None and hint is type(None)):
        return value
    raise InputError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")


def _read_dataclass(hint: Any, value: Any, default: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where or 'configuration'}: expected an object with keys, got {value!r}")
    hints = typing.get_type_hints(hint, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(hint) if field.init}
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in fields:
            raise InputError(f"unknown key {prefix + name!r}{closest(name, fields)}")
    found = {}
    for name, field in fields.items():
        base = getattr(default, name, None) if default is not None else None
        if name in value:
            found[name] = _read(hints[name], value[name], base, prefix + name)
        elif default is not None:
            found[name] = base
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"missing key {prefix + name!r}")
    return hint(**found)


def _read_union(arguments: tuple, value: Any, default: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    errors = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _read(argument, value, default if isinstance(default, _plain(argument)) else None, where)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _plain(hint: Any) -> Any:
    return hint if isinstance(hint, type) else object
