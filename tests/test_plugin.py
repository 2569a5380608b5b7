"""A backend of another package is tuned, served and checked by nograd's own commands; its bundle names the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import nograd
from nograd.bundle import Bundle
from nograd.cli.application import app
from nograd.errors import ExportError, ModelLoadError
from nograd.exports import export_model
from nograd.tuning import Tuned, tune
from tests.plugins import install_plain
from tests.running_server import server_of
from tests.tuning_tasks import Classifier

ROWS = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the plug-in is installed in."""
    return install_plain(tmp_path_factory.mktemp("plugin") / "site")


@pytest.fixture(scope="module", autouse=True)
def _installed(site: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setattr("nograd.tuning.tuner.CONFIRM_S", 0.2)
        yield
    sys.modules.pop("nograd_plain", None)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, site: Path, _installed: None) -> Tuned:
    """A classifier tuned to a bundle. Nothing says how to build the module again, so only a file can win."""
    target = tmp_path_factory.mktemp("tuned") / "bundle"
    return tune(Classifier(), ROWS, output=target, budget_s=600.0, rounds=4, cores=1, backends=["plain"])


@pytest.fixture(scope="module")
def bundle(tuned: Tuned) -> Path:
    assert tuned.bundle is not None, str(tuned)
    return tuned.bundle


def answers(rows: Any = ROWS) -> Any:
    return Classifier()(rows).detach().numpy()


def test_a_plugin_is_built_compared_with_eager_and_raced(tuned: Tuned) -> None:
    row = next(row for row in tuned.report.rows if row.candidate.backend == "plain")

    assert (row.status, str(row.candidate)) == ("winner", "plain 1x1")
    assert row.parity is not None
    assert row.parity["passed"]
    assert row.rounds >= 1


def test_its_bundle_names_the_package_and_its_version(bundle: Path) -> None:
    settings = json.loads((bundle / "bundle.json").read_text())["settings"]

    assert (settings["backend"], settings["distribution"]) == ("plain", "nograd-plain")
    assert settings["machine"]["libraries"]["nograd-plain"] == "1.0"
    assert sorted(path.name for path in bundle.glob("model*")) == ["model.plain"]


def test_its_bundle_opens_without_trust_and_answers_as_the_model_does(bundle: Path) -> None:
    predictor = nograd.load(str(bundle))

    np.testing.assert_allclose(predictor.predict(ROWS.numpy()), answers(), rtol=1e-5, atol=1e-6)
    assert predictor.backend.name == "plain"
    assert not predictor.fingerprint().private_because


def test_another_version_of_the_package_is_a_difference_of_the_machine(bundle: Path) -> None:
    with Bundle.read(bundle) as found:
        assert found.differences() == []
        machine = found.machine
        assert machine is not None
        other = replace(machine, libraries={**machine.libraries, "nograd-plain": "2.0"})
        assert found.differences(other) == ["nograd-plain is 2.0, and was 1.0"]


def test_nograd_serve_answers_from_its_bundle(bundle: Path, site: Path) -> None:
    tensor = {"name": "x", "shape": [24, 8], "datatype": "FP32", "data": ROWS.flatten().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    path = ":".join(entry for entry in [str(site), *sys.path] if entry)
    with server_of(str(bundle), environment={"PYTHONPATH": path}) as server:
        with urlopen(Request(f"{server.url}/v2/models/Classifier/infer", body, {"content-type": "application/json"})) as answer:
            output = json.load(answer)["outputs"][0]
        assert server.complaints() == ""

    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), answers(), rtol=1e-5, atol=1e-6)


def test_nograd_check_finds_no_error_in_its_bundle(bundle: Path) -> None:
    report = nograd.check(str(bundle))

    assert report.findings
    assert report.exit_code() == 0, str(report)


def test_nograd_export_writes_its_files_and_load_reads_them_by_suffix(tmp_path: Path) -> None:
    backend = nograd.Predictor(Classifier(), sample=ROWS).backend
    made = export_model(backend, tmp_path / "model.plain", to="plain")

    assert made.notes == ("written by numpy",)
    assert made.parity.passed
    assert [path.name for path in tmp_path.iterdir()] == ["model.plain"]
    np.testing.assert_allclose(nograd.load(str(made.path)).predict(ROWS.numpy()), answers(), rtol=1e-5, atol=1e-6)


def test_its_files_in_half_precision_are_compared_with_the_float32_model(tmp_path: Path) -> None:
    backend = nograd.Predictor(Classifier(), sample=ROWS).backend
    made = export_model(backend, tmp_path / "model.plain", to="plain", precision="float16")

    assert 0 < made.parity.outputs[0].max_abs < 0.01
    np.testing.assert_allclose(nograd.load(str(made.path)).predict(ROWS.numpy()), answers(), atol=0.01)


def test_a_model_that_the_plugin_cannot_run_is_refused_in_its_own_words(tmp_path: Path) -> None:
    backend = nograd.Predictor(torch.nn.Linear(8, 3), sample=ROWS).backend

    with pytest.raises(ExportError, match="plain runs 2 linear layers; the model has 1"):
        export_model(backend, tmp_path / "model.plain", to="plain")
    assert list(tmp_path.iterdir()) == []


def inspect(bundle: str) -> object:
    return CliRunner().invoke(app, ["inspect", bundle], catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize("use", [inspect, nograd.load])
def test_a_bundle_without_its_package_says_which_one_to_install(
    bundle: Path, site: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[str], object]
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])

    with pytest.raises(ModelLoadError) as caught:
        use(str(bundle))

    said = "backend is 'plain', of the package nograd-plain, which is not installed; run: pip install nograd-plain"
    assert str(caught.value) == f"{bundle}: {said}"
