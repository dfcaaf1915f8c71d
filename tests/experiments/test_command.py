"""The command line: presets and flags in any order, one line for what is wrong, exit codes."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from experiments import command
from marljax.data.schema import InputError
from marljax.runtime.artefacts import write_json
from marljax.runtime.progress import Stopped

DESCRIPTION = "Reads books and learns."


@dataclasses.dataclass(frozen=True)
class Data:
    """Which books to read."""

    path: tuple[Path, ...] = ()
    """Files or folders."""
    fee: float = 0.1
    """Taker fee [basis points]."""

    def __post_init__(self) -> None:
        if self.fee < 0:
            raise InputError(f"fee must not be negative, got {self.fee}")


@dataclasses.dataclass(frozen=True)
class Config:
    preset: Literal["smoke", "demo"] = "demo"
    """Values which the other flags change."""
    seed: int = 0
    """Seed of every random number."""
    data: Data = Data()


PRESETS = {"smoke": Config("smoke", seed=7), "demo": Config("demo", data=Data(fee=0.3))}


def parse(*args: str) -> Config:
    return command.parse(Config, PRESETS, DESCRIPTION, args)


def test_without_flags_the_default_preset_runs():
    assert parse() == PRESETS["demo"]


@pytest.mark.parametrize("args", [["--preset", "smoke", "--data.fee", "2"], ["--data.fee=2", "--preset=smoke"]])
def test_flags_change_the_preset_in_any_order(args):
    assert parse(*args) == Config("smoke", seed=7, data=Data(fee=2.0))


def test_flags_are_checked_against_the_preset_they_are_given_with():
    @dataclasses.dataclass(frozen=True)
    class Halves:
        """Two numbers of which one divides the other."""

        preset: Literal["smoke", "demo"] = "demo"
        """Where to start."""
        whole: int = 64
        """A number."""
        part: int = 64
        """Divides it."""

        def __post_init__(self) -> None:
            if self.whole % self.part:
                raise InputError(f"part {self.part} does not divide whole {self.whole}")

    presets = {"smoke": Halves("smoke", whole=8, part=8), "demo": Halves()}
    assert command.parse(Halves, presets, "", ["--preset", "smoke", "--whole", "16"]) == Halves("smoke", 16, 8)
    with pytest.raises(InputError, match="part 64 does not divide whole 16"):
        command.parse(Halves, presets, "", ["--whole", "16"])


def test_a_flag_may_take_several_values():
    assert parse("--data.path", "a", "b", "--seed", "1").data.path == (Path("a"), Path("b"))


def test_a_saved_configuration_runs_again_and_flags_change_it(tmp_path):
    saved = Config("smoke", seed=5, data=Data((Path("x"),), 0.7))
    write_json(tmp_path / "config.json", saved)
    again = ["--config", str(tmp_path / "config.json")]
    assert parse(*again) == saved
    assert parse("--seed", "6", *again) == dataclasses.replace(saved, seed=6)
    with pytest.raises(InputError, match=r"--preset demo and --config .* exclude each other"):
        parse(*again, "--preset", "demo")


def test_keys_a_saved_configuration_lacks_are_its_presets(tmp_path):
    write_json(tmp_path / "config.json", {"preset": "smoke", "data": {"fee": 1}})
    assert parse("--config", str(tmp_path / "config.json")) == Config("smoke", seed=7, data=Data(fee=1.0))


def test_a_misspelt_key_names_file_and_closest_key(tmp_path):
    write_json(tmp_path / "config.json", {"data": {"fees": 1}})
    with pytest.raises(InputError, match=r"config.json: unknown key 'data.fees'; did you mean 'fee'\?"):
        parse("--config", str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sead", "3"], "error: unknown flag --sead; did you mean '--seed'? (see --help)"),
        (["--data.fe=3"], "error: unknown flag --data.fe; did you mean '--data.fee'? (see --help)"),
        (["stray"], "error: unexpected argument 'stray' (see --help)"),
        (["--seed", "x"], "error: --seed: invalid literal for int() with base 10: 'x' (see --help)"),
        (["--data.fee", "-1"], "error: data: fee must not be negative, got -1.0 (see --help)"),
        (["--data.fee", "nan"], "error: data.fee: expected a finite number"),
        (["--preset", "tiny", "--help"], "error: invalid choice 'tiny' for argument '--preset'."),
        (["--seed"], "error: Missing value for argument '--seed'."),
        (["--config", "absent.json"], "error: absent.json: No such file or directory"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_code_2(args, message, capsys):
    assert exit_code(lambda _: None, *args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1


def test_help_is_a_manual_with_the_presets_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(lambda _: None, "--preset", "smoke", "--help") == 0
    said = capsys.readouterr()
    for word in (
        DESCRIPTION,
        "Taker fee [basis points]. (default: 0.1)",
        "(default: 7)",
        "--config FILE",
        "{smoke,demo}",
    ):
        assert word in said.out
    assert said.err == ""


def exit_code(main, *args: str) -> int:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            command.run(main, Config, PRESETS, DESCRIPTION, args)
    finally:
        signal.signal(signal.SIGTERM, before)
    return end.value.code


@pytest.mark.parametrize(
    ("ending", "code", "line"),
    [
        (None, 0, ""),
        (InputError("empty", file="books.csv", line=3, column="bid"), 2, "error: books.csv:3: column 'bid': empty\n"),
        (Stopped("[ppo] stopped"), 3, "[ppo] stopped; run the same command again to resume\n"),
        (KeyboardInterrupt(), 3, "stopped; what is finished is kept, run the same command again to resume\n"),
    ],
)
def test_how_a_run_ends_is_its_exit_code(ending, code, line, capsys):
    def main(config: Config) -> None:
        if ending is not None:
            raise ending

    assert exit_code(main) == code
    assert capsys.readouterr().err == line


def test_our_own_bugs_keep_their_traceback():
    def main(config: Config) -> None:
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ZeroDivisionError):
            command.run(main, Config, PRESETS, DESCRIPTION, [])
    finally:
        signal.signal(signal.SIGTERM, before)


PROGRAM = """
import sys, time
from experiments.command import run
from tests.experiments.test_command import Config, PRESETS
def main(config):
    print("started", flush=True)
    time.sleep(60)
run(main, Config, PRESETS, "", [])
"""


def test_sigterm_between_chunks_is_a_clean_stop():
    environment = os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[1])}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=pipe, stderr=pipe, text=True, env=environment)
    assert process.stdout.readline() == "started\n"
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 3
    assert said.count("\n") == 1


def test_track_says_where_curves_go_and_is_no_part_of_the_configuration(monkeypatch):
    used, seen = [], []
    monkeypatch.setattr(command.tracking, "use", used.extend)
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as end:
        command.run(seen.append, Config, PRESETS, DESCRIPTION, ["--track", "tensorboard", "wandb", "--preset", "smoke"])
    assert end.value.code == 0
    assert used == ["tensorboard", "wandb"]
    assert seen == [PRESETS["smoke"]]


def test_tracking_without_its_package_is_one_line_and_exit_2(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit) as end:
        command.run(lambda _: None, Config, PRESETS, DESCRIPTION, ["--track", "wandb"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: tracking by wandb needs the package wandb: pip install 'marljax[wandb]'"
    ]
