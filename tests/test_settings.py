"""Settings of `nograd serve`: which source goes before which, and what each mistake is told as."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from nograd.errors import ConfigError
from nograd.server.command import check_early, settings_of
from nograd.server.settings.cli_options import read_options
from nograd.server.settings.definition import GROUPS, ServeConfig, settings_by_name
from nograd.server.settings.model_config import ModelConfig, name_of, parse_model
from nograd.server.settings.printing import to_toml
from nograd.server.settings.resolution import ResolvedSettings, settle
from nograd.server.settings.schema import config_schema
from tests.test_cli import nograd

ONE = [ModelConfig("m")]


def of_file(**content: Any) -> ResolvedSettings:
    return settle(("nograd.toml", content), {}, {})


def test_without_anything_said_everything_is_as_it_always_is() -> None:
    found = settle(None, {}, {}, ONE)

    assert found.config == ServeConfig()
    assert (found.models, found.origins) == (tuple(ONE), {"models": "the command line"})


def test_the_command_line_goes_before_the_environment_and_that_before_the_file() -> None:
    file = {"max_batch_size": 1, "max_wait_ms": 1, "timeout_s": 1.5, "models": [{"model": "m"}]}
    environment = {"NOGRAD_MAX_WAIT_MS": "2", "NOGRAD_TIMEOUT_S": "2.5"}

    found = settle(("nograd.toml", file), environment, {"timeout_s": 3.5})

    assert (found.config.max_batch_size, found.config.max_wait_ms, found.config.timeout_s) == (1, 2.0, 3.5)
    assert type(found.config.max_wait_ms) is float
    assert found.origins == {
        "max_batch_size": "nograd.toml",
        "max_wait_ms": "NOGRAD_MAX_WAIT_MS",
        "timeout_s": "--timeout",
        "models": "nograd.toml",
    }


def test_models_of_the_command_line_stand_in_place_of_the_files() -> None:
    found = settle(("nograd.toml", {"models": [{"model": "m"}]}), {}, {}, [ModelConfig("other")])

    assert [model.model for model in found.models] == ["other"]


# -- mistakes, each told with where it is and what may stand there


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"max_wait": 2}, "nograd.toml: max_wait is 2; it must be a time such as 2ms or 1s, in quotes"),
        ({"xyzzy": 2}, "nograd.toml has 'xyzzy', which is not a setting; the settings are host, port,"),
        ({"model": "m"}, "nograd.toml has 'model', which is not a setting; did you mean 'models'?"),
        ({"port": "8000"}, "nograd.toml: port is '8000'; it must be a whole number"),
        ({"port": True}, "nograd.toml: port is true; it must be a whole number"),
        ({"port": 8000.5}, "nograd.toml: port is 8000.5; it must be a whole number"),
        ({"access_log": 1}, "nograd.toml: access_log is 1; it must be true or false"),
        ({"host": 1}, "nograd.toml: host is 1; it must be text"),
        ({"max_wait_ms": "2"}, "nograd.toml: max_wait_ms is '2'; it must be a number"),
        ({"max_batch_size": 0}, "nograd.toml: max_batch_size is 0; it must be at least 1"),
        ({"log_format": "yaml"}, "nograd.toml: log_format is 'yaml'; it must be one of text, json"),
        ({"models": "m"}, "nograd.toml: models is not a list of tables; each model is a table under [[models]]"),
        ({"models": ["m"]}, "nograd.toml: models is not a list of tables"),
        ({"models": [{"model": "m"}, {}]}, "nograd.toml: models[1] has no model; it must name one"),
        ({"models": [{"mdoel": "m"}]}, "nograd.toml: models[0] has 'mdoel', which is not a setting; did you mean 'model'?"),
        ({"models": [{"model": "m", "version": 2}]}, "nograd.toml: models[0]: version is 2; it must be text"),
        (
            {"models": [{"model": "m", "version": "a/b"}]},
            "nograd.toml: models[0]: version is 'a/b'; it must be text without '/'",
        ),
        ({"models": [{"model": ""}]}, "nograd.toml: models[0]: model is ''; it must name a model"),
        (
            {"models": [{"model": "m", "max_batch_size": 0}]},
            "nograd.toml: models[0]: max_batch_size is 0; it must be at least 1",
        ),
        ({"models": [{"model": "m", "load": False}]}, "nograd.toml: models[0]: load is false for m, which has no name"),
        (
            {"models": [{"model": "m", "name": "a"}, {"model": "n", "name": "a"}]},
            "nograd.toml: m and n are both 'a', version '1'; give one another name or version",
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_with_file_key_and_what_is_allowed(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        of_file(**content)

    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("NOGRAD_PORT", "http", "NOGRAD_PORT is 'http'; it must be a whole number"),
        ("NOGRAD_PORT", "70000", "NOGRAD_PORT: port is 70000; it must be from 0 to 65535"),
        ("NOGRAD_TIMEOUT_S", "", "NOGRAD_TIMEOUT_S is ''; it must be a number"),
        ("NOGRAD_ACCESS_LOG", "maybe", "NOGRAD_ACCESS_LOG is 'maybe'; it must be true or false"),
        ("NOGRAD_PROT", "1", "NOGRAD_PROT is set, and is not a setting; did you mean NOGRAD_PORT?"),
        ("NOGRAD_MAX_BATCHSIZE", "1", "did you mean NOGRAD_MAX_BATCH_SIZE?"),
    ],
)
def test_a_mistake_in_the_environment_is_told_with_the_variable(variable: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settle(None, {variable: text}, {}, ONE)

    assert said in str(raised.value)


def test_variables_of_others_are_left_alone_and_the_keys_are_no_setting() -> None:
    others = {
        "NOGRAD_TEST_GATE": "1", "NOGRAD_API_KEYS": "k", "NOGRAD_CONFIG": "x", "PORT": "1",
        "NOGRAD_PORT": "tcp://10.0.0.1:8000", "NOGRAD_SERVICE_HOST": "10.0.0.1",  # as Kubernetes has them
    }  # fmt: skip

    assert settle(None, others, {}, ONE).config == ServeConfig()


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("no", False)])
def test_true_and_false_have_several_words(text: str, value: bool) -> None:
    assert settle(None, {"NOGRAD_ACCESS_LOG": text}, {}, ONE).config.access_log is value


def test_an_empty_variable_leaves_a_setting_unset_that_may_be() -> None:
    found = settle(("f", {"grpc_port": 8001}), {"NOGRAD_GRPC_PORT": ""}, {}, ONE)

    assert found.config.grpc_port is None


def test_opentelemetrys_variable_is_heard_and_ours_goes_before() -> None:
    theirs = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}

    assert settle(None, theirs, {}, ONE).config.traces == "http://a:4318"
    assert settle(None, {**theirs, "NOGRAD_TRACES": "http://b:4318"}, {}, ONE).config.traces == "http://b:4318"
    assert settle(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {}, ONE).config.traces == ""


def test_a_wrong_option_is_told_without_a_source() -> None:
    with pytest.raises(ConfigError, match=r"^max_batch_size is 0; it must be at least 1$"):
        settle(None, {}, {"max_batch_size": 0}, ONE)


def test_a_file_that_cannot_be_read_or_is_no_toml_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it cannot be read: No such file"):
        settings_of(tmp_path / "missing.toml", {}, {})
    (tmp_path / "bad.toml").write_text("port = \n")
    with pytest.raises(ConfigError, match=r"bad.toml is not TOML: Invalid value"):
        settings_of(tmp_path / "bad.toml", {}, {})
    (tmp_path / "latin.toml").write_bytes(b'host = "\xff"')
    with pytest.raises(ConfigError, match=r"latin.toml is not TOML"):
        settings_of(tmp_path / "latin.toml", {}, {})


def test_the_environment_may_name_the_file_and_an_option_goes_before_it(tmp_path: Path) -> None:
    for name, port in (("one.toml", 1), ("two.toml", 2)):
        (tmp_path / name).write_text(f'port = {port}\n[[models]]\nmodel = "m"\n')
    environment = {"NOGRAD_CONFIG": str(tmp_path / "one.toml")}

    assert settings_of(None, environment, {}).config.port == 1
    assert settings_of(tmp_path / "two.toml", environment, {}).config.port == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ResolvedSettings(ServeConfig()), "there is no model to serve; name one (nograd serve minilm)"),
        (ResolvedSettings(ServeConfig(), (ModelConfig("m", "m", load=False),)), "there is no model to serve"),
        (ResolvedSettings(ServeConfig(repository_dir="/nowhere")), "repository_dir is '/nowhere'; there is no such folder"),
    ],
)
def test_nothing_to_serve_is_told_early(settings: ResolvedSettings, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_early(settings)

    assert said in str(raised.value)


# -- models as arguments


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("minilm", ModelConfig("minilm")),
        ("package.module:factory", ModelConfig("package.module:factory")),
        ("words=minilm", ModelConfig("minilm", "words")),
        ("words:2=package.module:factory", ModelConfig("package.module:factory", "words", "2")),
        ("words=a=b", ModelConfig("a=b", "words")),
        ("models/a=b", ModelConfig("models/a=b")),
        ("org/model=package.module:factory", ModelConfig("package.module:factory", "org/model")),
        ("org/team/model:2=minilm", ModelConfig("minilm", "org/team/model", "2")),
        ("org/model=words.onnx", ModelConfig("words.onnx", "org/model")),
        ("org/model=/models/words", ModelConfig("/models/words", "org/model")),
    ],
)
def test_an_argument_is_a_model_with_a_name_and_a_version_or_without(text: str, found: ModelConfig) -> None:
    assert parse_model(text) == found


def test_what_is_the_path_of_something_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()

    assert parse_model("lr=0.1") == ModelConfig("lr=0.1")


@pytest.mark.parametrize("text", ["=minilm", "words=", "words:=minilm", ":2=minilm"])
def test_an_argument_with_something_missing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be MODEL, NAME=MODEL or NAME:VERSION=MODEL"):
        parse_model(text)


def test_a_model_without_a_name_has_its_factorys_or_its_folders() -> None:
    assert [name_of(text) for text in ("a.b:make", "some/words.bundle", "some/words.zip", "minilm")] == [
        "make", "words.bundle", "words", "minilm",
    ]  # fmt: skip


def test_a_models_limits_are_the_servers_where_it_says_nothing() -> None:
    server = ServeConfig(max_batch_size=8, timeout_s=3.0, cache_url="redis://x")

    assert ModelConfig("m").settings(server) is server
    own = ModelConfig("m", max_batch_size=2, cache=False).settings(server)
    assert (own.max_batch_size, own.timeout_s, own.cache_mb, own.cache_url) == (2, 3.0, 0.0, "")


# -- printing


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)


@given(
    host=texts,
    wait=st.floats(0, 1e6),
    rows=st.integers(1, 10**9),
    ttl=st.none() | st.floats(1e-3, 1e9),
    log=st.booleans(),
    names=st.lists(texts.filter(lambda text: text and "/" not in text), unique=True, max_size=3),
)
def test_what_is_printed_says_the_same_when_it_is_read(
    host: str, wait: float, rows: int, ttl: float | None, log: bool, names: list[str]
) -> None:
    config = ServeConfig(host=host, max_wait_ms=wait, max_batch_size=rows, cache_ttl_s=ttl, access_log=log)
    models = tuple(ModelConfig(f"m {name}", name, cache=False, timeout_s=2.0) for name in names)

    printed = to_toml(ResolvedSettings(config, models))
    again = settle(("printed", tomllib.loads(printed)), {}, {})

    assert (again.config, again.models) == (config, models)
    assert printed.count("# default") == len(fields(ServeConfig)) + len(models)


def test_print_config_shows_all_settings_and_where_each_is_from_and_serves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "nograd.toml"
    file.write_text('max_wait_ms = 2\n[[models]]\nmodel = "minilm"\nname = "words"\n')

    ended = subprocess.run(
        [sys.executable, "-m", "nograd", "serve", "--config", str(file), "--port", "9000", "--no-access-log", "--print-config"],
        env={"PATH": "", "NOGRAD_GRACE_S": "5", **_pythonpath()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = ended.stdout.splitlines()

    assert f'max_wait = "2ms"  # {file}' in lines
    assert 'grace = "5s"  # NOGRAD_GRACE_S' in lines
    assert "port = 9000  # --port" in lines
    assert "access_log = false  # --access-log" in lines
    assert "# grpc_port is not set  # default" in lines
    assert f"[[models]]  # {file}" in lines
    assert tomllib.loads(ended.stdout)["models"] == [
        {"model": "minilm", "name": "words", "version": "1", "load": True, "cache": True}
    ]


def _pythonpath() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}


def test_every_setting_is_an_option_and_every_option_has_the_settings_default() -> None:
    """A field of ServeConfig without its option, or with another default than it has without the command, ends here."""
    import inspect

    from nograd.cli.commands.serve import serve
    from nograd.cli.serving import GIVEN_ELSEWHERE

    parameters = {name: each.default for name, each in inspect.signature(serve).parameters.items()}
    given = {
        name: value for name, value in parameters.items() if name not in GIVEN_ELSEWHERE | {"context"} and value is not None
    }

    assert read_options(given) == {
        each.name: each.default for each in fields(ServeConfig) if each.default not in ("", None)
    } | {each.name: "" for each in fields(ServeConfig) if each.default == "" and not settings_by_name()[each.name].is_list}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "b", "--name", "x"], "name is 'x', for 2 models; it names a single model: write NAME=MODEL instead"),
        (["--name", "x"], "name is 'x', for 0 models"),
        (["a", "b", "--tune", "10s"], "tune is '10s', for 2 models; it tunes one: name it, and no other"),
        (["n=a", "n=b"], "a and b are both 'n', version '1'"),
        (["m", "--config", "missing.toml"], "config is 'missing.toml'; it cannot be read"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments: list[str], said: str) -> None:
    ended = nograd("serve", *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert ended.stderr.startswith("nograd: ")
    assert ended.stderr.count("\n") == 1


# -- one definition: options, schema and reference derive from the fields


def test_help_lists_every_setting_under_the_heading_of_its_group() -> None:
    help_text = nograd("serve", "--help").stdout
    sections = dict(re.findall(r"^(\S[^\n]*):\n((?:(?:  .*)?\n)+)", help_text, re.MULTILINE))

    assert [heading for heading in sections if heading in GROUPS] == [*GROUPS]
    for setting in settings_by_name().values():
        assert f"{setting.option} " in sections[setting.group]


def test_the_schema_accepts_what_print_config_writes() -> None:
    models = (ModelConfig("m", "m", timeout_s=2.0), ModelConfig("n", "n", cache=False))

    written = tomllib.loads(to_toml(ResolvedSettings(ServeConfig(grpc_port=8001, cache_ttl_s=1.5), models)))

    validator = Draft202012Validator(config_schema())
    validator.check_schema(config_schema())
    assert list(validator.iter_errors(written)) == []


@pytest.mark.parametrize(
    "content",
    [
        {"max_wait": 2}, {"port": "8000"}, {"log_format": "yaml"}, {"access_log": 1}, {"models": "m"},
        {"models": [{"name": "m"}]},
        {"models": [{"model": "m", "max_wait": 1}]},
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_server_refuses(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        of_file(**content)
    assert not Draft202012Validator(config_schema()).is_valid(content)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_may_have_the_brackets_of_urls(host: str) -> None:
    config = ServeConfig(host=host)
    assert (config.host, config.address(8000)) == ("::1", "[::1]:8000")
