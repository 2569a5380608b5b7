"""`nograd init` and `nograd schema`: the files run as they are, and the schema describes the file."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from nograd.cli.application import app
from nograd.cli.serving import local_file
from nograd.cli.starter import starter_files
from nograd.server.command import settings_of
from nograd.server.settings.model_config import ModelConfig, open_model
from nograd.server.settings.schema import config_schema


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of `nograd init`, which is the current one."""
    ended = CliRunner().invoke(app, ["init", str(tmp_path / "flowers")])
    assert ended.exit_code == 0
    monkeypatch.chdir(tmp_path / "flowers")
    monkeypatch.syspath_prepend(str(tmp_path / "flowers"))
    yield tmp_path / "flowers"
    for name in ("model", "test_model"):
        sys.modules.pop(name, None)


def test_serve_without_arguments_finds_the_file_and_its_model_answers(started: Path) -> None:
    settings = settings_of(local_file({}, []), {}, {})

    (model,) = settings.models
    predictor = open_model(model, settings.config)

    assert (model.name, [spec.name for spec in predictor.signature.inputs]) == ("flowers", ["x"])
    assert predictor.predict(np.ones((2, 4), np.float32)).shape == (2, 3)
    predictor.close()


def test_the_test_that_is_written_passes(started: Path) -> None:
    module = importlib.import_module("test_model")
    predictor = importlib.import_module("model").factory()

    checks = [name for name in vars(module) if name.startswith("test_")]

    assert len(checks) == 2
    for name in checks:
        getattr(module, name)(predictor)
    predictor.close()


def test_models_or_a_file_that_are_named_take_the_place_of_the_local_file(started: Path) -> None:
    assert local_file({}, []) == Path("nograd.toml")
    assert local_file({}, ["minilm"]) is None
    assert local_file({"NOGRAD_CONFIG": "other.toml"}, []) is None
    (started / "nograd.toml").unlink()
    assert local_file({}, []) is None


@pytest.mark.parametrize("existing", ["model.py", "test_model.py", "nograd.schema.json"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")

    ended = CliRunner().invoke(app, ["init", str(tmp_path)])

    assert str(ended.exception) == f"{tmp_path} already has {existing}; give another folder, or remove them: nograd init DIR"
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "nograd.toml").symlink_to(tmp_path / "elsewhere")

    ended = CliRunner().invoke(app, ["init", str(tmp_path)])

    assert "already has nograd.toml" in str(ended.exception)
    assert not (tmp_path / "elsewhere").exists()


def test_the_commented_lines_are_the_defaults_and_the_schema_accepts_all() -> None:
    text = starter_files()["nograd.toml"]
    commented = re.sub(r"^# (\w+ = )", r"\1", text.partition("[[models]]")[0], flags=re.MULTILINE)

    properties = config_schema()["properties"]
    found = tomllib.loads(commented)

    assert len(found) > 6
    assert found == {key: properties[key]["default"] for key in found}
    assert list(Draft202012Validator(config_schema()).iter_errors(tomllib.loads(text))) == []
    assert text.startswith("#:schema ./nograd.schema.json\n")
    assert json.loads(starter_files()["nograd.schema.json"]) == config_schema()


def test_the_schema_is_printed_and_is_the_published_one(tmp_path: Path) -> None:
    published = Path(__file__).parent.parent / "docs" / "reference" / "nograd.schema.json"

    printed = CliRunner().invoke(app, ["schema"]).stdout
    CliRunner().invoke(app, ["schema", "-o", str(tmp_path / "x.json")])

    assert printed == (tmp_path / "x.json").read_text() == published.read_text()
    assert json.loads(printed)["properties"]["timeout"]["default"] == "30s"


@pytest.mark.parametrize(
    "content",
    [{"timeout": "soon"}, {"cache_size": 64}, {"devices": [1]}, {"models": [{"model": "m", "max_wait": "2MB"}]}],
)
def test_the_schema_refuses_wrong_amounts(content: dict[str, object]) -> None:
    assert not Draft202012Validator(config_schema()).is_valid(content)


def test_a_model_alone_needs_no_file() -> None:
    assert settings_of(None, {}, {}, [ModelConfig("m")]).models == (ModelConfig("m"),)
