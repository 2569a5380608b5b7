"""The command line as users see it: help, examples, completion, units, lists, reports, old spellings. All in this process."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import nograd
from nograd.bench.report import BenchReport
from nograd.checks import FAMILIES
from nograd.cli.application import app
from nograd.cli.commands import bench, check
from nograd.cli.entry import show_warning
from nograd.cli.old_spellings import OldSpelling, modernize
from nograd.cli.options import split_lists
from nograd.cli.outputs import STDOUT, OutputTarget, plan_outputs, write_outputs
from nograd.core.units import amount_of, amount_text
from nograd.errors import ConfigError
from nograd.report.finding_formats import FORMATS
from nograd.server.settings.cli_options import old_options, words_of
from nograd.server.settings.definition import ServeConfig, settings_by_name
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import settle
from scripts.reference.commands import COMMANDS

ROOT: Any = typer.main.get_command(app)
NAMES = [(), ("cache",), *(tuple(name.split()[1:]) for name in COMMANDS)]
MODEL = [ModelConfig("m")]


def help_of(name: tuple[str, ...], columns: int) -> str:
    ended = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": str(columns)}, prog_name="nograd")
    assert ended.exit_code == 0
    return ended.stdout


# Help


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_fits_the_terminal(name: tuple[str, ...], columns: int) -> None:
    wide = [line for line in help_of(name, columns).splitlines() if len(line) > columns and "http" not in line]

    assert wide == []


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_help_has_examples_and_no_types_for_values(name: tuple[str, ...]) -> None:
    text = help_of(name, 100)

    assert "\nExamples:\n" in text
    assert not re.search(r"<\w+(\[\w+\])?>", text)


def test_summaries_are_whole() -> None:
    listed = [line for line in help_of((), 80).splitlines() if line.startswith("  ") and ":" not in line]

    assert not [line for line in listed if line.endswith("...")]
    assert {"serve", "predict", "bench", "cache"} <= {line.split()[0] for line in listed}


def test_options_of_one_group_are_under_its_heading() -> None:
    sections = re.split(r"\n(?=\w[\w ]*:\n)", help_of(("predict",), 100))
    resume = next(section for section in sections if section.startswith("Faults and resuming:"))

    assert re.findall(r"^  (--[\w-]+)", resume, re.MULTILINE) == ["--on-error", "--restart", "--commit-every"]
    assert "--on-error fail|skip" in resume


def shown_examples() -> list[tuple[str, str]]:
    epilogs = {name: command.epilog for name, command in COMMANDS.items()} | {"nograd": ROOT.epilog}
    return [(name, line.strip()) for name, epilog in epilogs.items() for line in epilog.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize(("name", "line"), shown_examples())
def test_every_example_is_a_command_line_of_its_command(name: str, line: str) -> None:
    words = shlex.split(line.rpartition("| ")[2])
    known = max((each for each in COMMANDS if words[: len(each.split())] == each.split()), key=len)

    context = COMMANDS[known].make_context(known, words[len(known.split()) :])

    assert known.startswith(name)
    assert context.meta["nograd.old_spellings"] == []


def test_the_shown_choices_are_those_of_the_program() -> None:
    assert tuple(FORMATS) == check.FORMATS
    assert set(bench.FORMATS) == {"text", "json", "html"}
    assert all(family in help_of(("check",), 200) for family in FAMILIES)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("nograd con", ["conformance"]),
        ("nograd check m --format s", ["sarif"]),
        ("nograd serve --log-level ", ["debug", "info", "warning", "error"]),
        ("nograd tune m --goal l", ["latency"]),
    ],
)
def test_the_shell_completes_commands_and_values(words: str, completions: list[str]) -> None:
    environment = {"_NOGRAD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}

    ended = CliRunner().invoke(app, [], env=environment, prog_name="nograd")

    assert ended.stdout.split() == completions


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_the_current_shell_is_shown(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)

    ended = CliRunner().invoke(app, ["--show-completion"], prog_name="nograd")

    assert ended.exit_code == 0
    assert f"_NOGRAD_COMPLETE=complete_{shell}" in ended.stdout


# Old spellings


SPELLINGS = [OldSpelling("--wait-ms", "--wait", "ms"), OldSpelling("--json", "--format=json", is_flag=True)]


@pytest.mark.parametrize(
    ("words", "modern", "count"),
    [
        ("m --wait-ms 2", ["m", "--wait=2ms"], 1),
        ("m --wait-ms=2.5", ["m", "--wait=2.5ms"], 1),
        ("--wait-ms .5 --wait-ms 1s", ["--wait=.5ms", "--wait=1s"], 1),
        ("--wait-ms -1", ["--wait=-1"], 1),
        ("--json m", ["--format=json", "m"], 1),
        ("--json --wait-ms 1", ["--format=json", "--wait=1ms"], 2),
        ("--wait-ms", ["--wait"], 0),
        ("-- --wait-ms 2", ["--", "--wait-ms", "2"], 0),
        ("--wait 2ms", ["--wait", "2ms"], 0),
    ],
)
def test_old_spellings_become_new_ones_with_one_note_each(words: str, modern: list[str], count: int) -> None:
    found, notes = modernize(words.split(), SPELLINGS)

    assert found == modern
    assert len(notes) == count


def test_every_setting_with_a_unit_has_an_old_option() -> None:
    old = {name: (new, unit) for name, new, unit in old_options()}

    assert len(old) == sum(bool(setting.unit) for setting in settings_by_name().values())
    assert old["--cache-mb"] == ("--cache-size", "MB")
    assert old["--max-body-bytes"] == ("--max-body-size", "B")


def test_an_old_option_is_reported_once_on_stderr(tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        app, ["predict", "m", "missing.jsonl", "-o", str(tmp_path / "o.jsonl"), "--commit-s", "2", "--commit-s=3"]
    )

    assert ended.stderr == "nograd: --commit-s is an old spelling; write --commit-every 2s\n"


def test_commas_in_a_repeated_option_still_separate_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert split_lists("keep", ["a, b", "c"]) == ("a", "b", "c")
    assert capsys.readouterr().err == "nograd: commas in --keep are an old spelling; repeat the option: --keep A --keep B\n"
    assert split_lists("keep", ["a", "b"]) == ("a", "b")
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="drop is 'a,'; it must not hold an empty name"):
        split_lists("drop", ["a,"])


# Units


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("2", "s", 2.0),
        ("2", "ms", 2000.0),
        ("1d", "s", 86400.0),
        ("1.5 KiB", "B", 1536.0),
        ("1GB", "MB", 1000.0),
        (".5s", "ms", 500.0),
    ],
)
def test_an_amount_is_converted(text: str, unit: str, value: float) -> None:
    assert amount_of(text, "x", unit) == value


@pytest.mark.parametrize(
    ("text", "unit"), [("2MB", "s"), ("2s", "B"), ("-1s", "s"), ("nan", "s"), ("1e3", "s"), ("", "B"), ("s", "s")]
)
def test_other_texts_are_not_amounts(text: str, unit: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"x is {text!r}; it must be a ")):
        amount_of(text, "x", unit)


@pytest.mark.parametrize("name", [name for name, setting in settings_by_name().items() if setting.unit])
@pytest.mark.parametrize("value", [1, 1536, 3 * 2**20, 10**9])
def test_the_text_of_an_amount_is_read_as_the_same_number(name: str, value: int) -> None:
    setting = settings_by_name()[name]

    assert amount_of(amount_text(value, setting.unit), "x", setting.unit) == value


# Settings in files and variables


def test_keys_and_variables_have_amounts_and_lists() -> None:
    file = {
        "timeout": "1m",
        "cache_size": "1GB",
        "max_body_size": "2MiB",
        "devices": ["a", "b"],
        "models": [{"model": "m", "max_wait": "2ms"}],
    }

    found = settle(("nograd.toml", file), {"NOGRAD_GRACE": "500ms", "NOGRAD_CACHE_TTL": ""}, {})

    config = found.config
    assert (config.timeout_s, config.cache_mb, config.max_body_bytes, config.devices) == (60.0, 1000.0, 2 << 20, "a,b")
    assert (config.grace_s, config.cache_ttl_s, found.models[0].max_wait_ms) == (0.5, None, 2.0)
    assert found.notes == ()


def test_old_keys_and_variables_still_work_with_a_note() -> None:
    file = {"timeout_s": 60, "models": [{"model": "m", "max_wait_ms": 2}, {"model": "n", "max_wait_ms": 2}]}

    found = settle(("nograd.toml", file), {"NOGRAD_CACHE_MB": "1", "NOGRAD_PORT": "1"}, {})

    assert (found.config.timeout_s, found.config.cache_mb) == (60.0, 1.0)
    assert found.notes == (
        'nograd.toml: timeout_s is an old spelling; write timeout = "30s"',
        'nograd.toml: max_wait_ms is an old spelling; write max_wait = "2ms"',
        "NOGRAD_CACHE_MB is an old spelling; write NOGRAD_CACHE_SIZE=64MiB",
    )


@pytest.mark.parametrize(
    ("file", "environment", "said"),
    [
        ({"timeout": "1s", "timeout_s": 1}, {}, "f has 'timeout' and 'timeout_s', which are the same setting; keep 'timeout'"),
        ({"timeout": "soon"}, {}, "f: timeout is 'soon'; it must be a time such as 90s or 2m"),
        ({"cache_size": 64}, {}, "f: cache_size is 64; it must be a size such as 4GB or 512MiB, in quotes"),
        ({"timeuot": "1s"}, {}, "f has 'timeuot', which is not a setting; did you mean 'timeout'?"),
        ({"models": [{"model": "m", "max_wait": "1MB"}]}, {}, "f: models[0]: max_wait is '1MB'; it must be a time"),
        ({}, {"NOGRAD_MAX_WAIT": "fast"}, "NOGRAD_MAX_WAIT is 'fast'; it must be a time such as 2ms or 1s"),
        ({}, {"NOGRAD_GRACE": "1s", "NOGRAD_GRACE_S": "1"}, "NOGRAD_GRACE and NOGRAD_GRACE_S are the same setting; set one"),
        ({}, {"NOGRAD_CACH_SIZE": "1MB"}, "NOGRAD_CACH_SIZE is set, and is not a setting; did you mean NOGRAD_CACHE_SIZE?"),
    ],
)
def test_a_wrong_amount_or_key_is_one_sentence(file: dict[str, Any], environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        settle(("f", file), environment, {}, MODEL)


def test_options_are_words_of_a_command_line_again() -> None:
    settings = settings_by_name()

    assert words_of(settings["max_wait_ms"], "2ms") == ["--max-wait=2ms"]
    assert words_of(settings["devices"], ["cpu", "cuda:0"]) == ["--devices=cpu", "--devices=cuda:0"]
    assert words_of(settings["access_log"], True) == ["--access-log"]


# Reports


def test_the_suffix_of_a_file_decides_the_format(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.json", "b.XML", "c.sarif", "d.log")]

    assert [each.format for each in plan_outputs(files, "", tuple(FORMATS))] == ["json", "junit", "sarif", "text"]
    assert [each.format for each in plan_outputs(files, "json", tuple(FORMATS))] == ["json"] * 4
    assert plan_outputs([tmp_path / "x.html"], "", ("text", "json"))[0].format == "text"
    assert plan_outputs([], "", ("text",)) == (OutputTarget(STDOUT, "text"),)


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'yaml'; it must be one of text, json"):
        plan_outputs([], "yaml", ("text", "json"))
    with pytest.raises(ConfigError, match=r"there is no folder '.*nowhere'"):
        plan_outputs([tmp_path / "nowhere" / "x.json"], "", ("text", "json"))
    with pytest.raises(ConfigError, match="a folder; it must be a file, or - for stdout"):
        plan_outputs([tmp_path], "", ("text", "json"))


def test_a_report_goes_to_every_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"

    write_outputs(
        [OutputTarget(STDOUT, "text"), OutputTarget(file, "json")], {"text": lambda: "found \x1b[2J", "json": lambda: "{}"}
    )

    assert (capsys.readouterr().out, file.read_text()) == ("found \\x1b[2J\n", "{}\n")


def test_old_options_of_bench_write_their_files_in_addition_to_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nograd.bench.bench", lambda *_, **__: BenchReport("m at u", (), "now"))

    ended = CliRunner().invoke(app, ["bench", "http://u", "--json", str(tmp_path / "out")])

    assert (ended.exit_code, ended.stdout.splitlines()[0]) == (0, "m at u")
    assert ended.stderr == f"nograd: --json is an old spelling; write -o - -o {tmp_path / 'out.json'}\n"
    assert json.loads((tmp_path / "out").read_text())["loads"] == []


def test_defaults_of_the_options_are_those_of_the_settings() -> None:
    assert ServeConfig().timeout_s == 30.0
    assert "--timeout TIME" in help_of(("serve",), 100)
    assert "[default: 30s]" in help_of(("serve",), 100)


@pytest.mark.parametrize(
    ("place", "written"),
    [
        (nograd.__file__, "nograd: warning: 2 rows\\x1b are too few\n"),
        ("/somewhere/model.py", "/somewhere/model.py:7: UserWarning: 2 rows\x1b are too few\n"),
    ],
)
def test_warnings_of_nograd_are_sentences_and_others_name_their_place(
    place: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_warning(UserWarning("2 rows\x1b are too few"), UserWarning, place, 7)

    assert capsys.readouterr().err == written
