"""How every experiment is called: flags from a configuration's fields, exit codes, one line for what went wrong.

A configuration is a frozen dataclass; each field is a flag and its docstring the flag's help. `--preset` and `--config`
choose the values which the other flags then change, in whatever order they stand.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from marljax.data.schema import InputError
from marljax.runtime import tracking
from marljax.runtime.artefacts import read_json
from marljax.runtime.config import closest, from_json, to_json
from marljax.runtime.devices import enable_compilation_cache
from marljax.runtime.progress import Diverged, Stopped

ConfigT = TypeVar("ConfigT")

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3


def run(
    main: Callable[[ConfigT], None],
    config_type: type[ConfigT],
    presets: Mapping[str, ConfigT],
    description: str,
    args: Sequence[str] | None = None,
    resumes: bool = True,
) -> NoReturn:
    """Parse the command line, call `main` and end the process.

    Exit codes: 0 done; 2 bad input or configuration, one line on stderr; 3 stopped by SIGINT or SIGTERM, to be resumed
    by the same command if it `resumes`; 1 where training diverged, one line with the cause on stderr, and with a
    traceback for an exception that nobody expected. See `parse` for `presets`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config, track = _parse(config_type, presets, description, args)
        tracking.use(track)
        enable_compilation_cache()
        main(config)
    except InputError as error:
        _leave(BAD_INPUT, f"error: {error}")
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        _leave(BAD_INPUT, f"error: {error.filename}: {error.strerror}")
    except Diverged as end:
        _leave(FAILED, f"error: {end}")
    except Stopped as stop:
        _leave(STOPPED, f"{stop}; run the same command again to resume")
    except KeyboardInterrupt:
        again = "what is finished is kept, run the same command again to resume" if resumes else "run it again"
        _leave(STOPPED, f"stopped; {again}")
    sys.exit(DONE)


def parse(
    config_type: type[ConfigT],
    presets: Mapping[str, ConfigT],
    description: str,
    args: Sequence[str] | None = None,
) -> ConfigT:
    """The configuration that the command line asks for.

    `config_type` has a field `preset` whose values are the names of `presets`; `--preset NAME` starts from that preset,
    else the field's default does. `--config FILE` starts from a saved configuration. Raises InputError for a flag or
    key that does not exist and for a bad value; prints the manual and leaves with 0 where `--help` is given.
    """
    return _parse(config_type, presets, description, args)[0]


def _parse(
    config_type: type[ConfigT],
    presets: Mapping[str, ConfigT],
    description: str,
    args: Sequence[str] | None,
) -> tuple[ConfigT, tuple[tracking.TrackerName, ...]]:
    """The configuration, and where its curves go besides metrics.jsonl."""
    args = list(sys.argv[1:] if args is None else args)
    default = next(preset for name, preset in presets.items() if name == _default_preset(config_type))
    # A first reading tells where to start from; the other flags' values may be good for that preset alone.
    first = _read(config_type, default, description, list(_beginning(args)))
    if first.config is None:
        command = _read(config_type, presets[first.settings.preset], description, args)
        # What a saved configuration could not hold (NaN, an infinity) is refused here and not at its rerun.
        return from_json(config_type, to_json(command.settings)), command.track
    saved = _read_config(config_type, presets, first.config)
    command = _read(config_type, saved, description, args)
    if command.settings.preset != saved.preset:
        raise InputError(f"--preset {command.settings.preset} and --config {first.config} exclude each other")
    return from_json(config_type, to_json(command.settings)), command.track


def _beginning(args: Sequence[str]) -> Iterator[str]:
    """The flags among `args` that say where to start from, with their values."""
    value_follows = False
    for arg in args:
        if value_follows or arg.partition("=")[0] in ("--preset", "--config"):
            yield arg
        value_follows = arg in ("--preset", "--config")


def _default_preset(config_type: type) -> str:
    return next(field.default for field in dataclasses.fields(config_type) if field.name == "preset")


def _read_config(config_type: type[ConfigT], presets: Mapping[str, ConfigT], path: Path) -> ConfigT:
    value = read_json(path)
    name = value.get("preset", _default_preset(config_type)) if isinstance(value, dict) else None
    try:
        return from_json(config_type, value, presets.get(name))
    except InputError as error:
        raise InputError(error.message, file=path) from error


def _read(config_type: type, default: Any, description: str, args: Sequence[str]) -> Any:
    """One pass of tyro: an object with `settings` (a `config_type`), `config` (Path or None) and `track` (names)."""
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("settings", Annotated[config_type, tyro.conf.arg(name="")]),
            (
                "config",
                Annotated[
                    Path | None, tyro.conf.arg(metavar="FILE", help="Start from this saved config.json, not a preset.")
                ],
                None,
            ),
            (
                "track",
                Annotated[
                    tuple[tracking.TrackerName, ...],
                    tyro.conf.arg(help="Write curves for these, too; each needs marljax's extra of its name."),
                ],
                (),
            ),
        ],
        frozen=True,
    )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, unknown = tyro.cli(
                command, args=args, default=command(default), description=description, return_unknown_args=True
            )
    except SystemExit as end:
        if end.code:
            raise InputError(f"{_condense(said.getvalue())} (see --help)") from end
        raise
    if unknown:
        name = unknown[0].partition("=")[0]
        what = f"unknown flag {name}" if name.startswith("-") else f"unexpected argument {name!r}"
        raise InputError(f"{what}{closest(name, _flags(config_type))} (see --help)")
    return parsed


def _condense(box: str) -> str:
    """The message in a box that tyro drew, as one line: what stands between its title and the rule that follows."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]
    message = itertools.takewhile(_is_text, itertools.dropwhile(lambda line: not _is_text(line), lines))
    line = " ".join(" ".join(line.strip("│| ") for line in message).split())
    return line.removeprefix("Error parsing ").removeprefix("settings.")


def _is_text(line: str) -> bool:
    return not set(line) <= set("─-│| ╰╯")


def _flags(config_type: Any, prefix: str = "--") -> list[str]:
    flags = ["--config", "--track", "--help"] if prefix == "--" else []
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        name = prefix + field.name.replace("_", "-")
        nested = dataclasses.is_dataclass(hints[field.name])
        flags += _flags(hints[field.name], f"{name}.") if nested else [name]
    return flags


def _leave(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)
