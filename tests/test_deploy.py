"""What lies in deploy/: every file is read, and what it says of the server is asked of the server. Nothing is built here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from prometheus_client.parser import text_string_to_metric_families

from nograd.cli.application import app
from nograd.server import run
from nograd.server.settings.cli_options import read_options
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry import access_log as access
from nograd.server.telemetry import tracing
from tests.fakes import Site, doubling

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FILES = {path.relative_to(DEPLOY).as_posix(): path for path in sorted(DEPLOY.rglob("*.yaml"))}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
STEPS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    if line and not line.startswith("#")
]
"""Instruction and the rest of its line."""


def loaded(name: str) -> Any:
    return yaml.safe_load(FILES[name].read_text("utf-8"))


def values(tree: Any, key: str) -> Iterator[Any]:
    """Yield what stands under a key, wherever that is."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(tree, list):
        for each in tree:
            yield from values(each, key)


def entrypoint() -> list[str]:
    (command,) = [rest for name, rest in STEPS if name == "ENTRYPOINT"]
    found: list[str] = json.loads(command)  # exec form: no shell stands between a signal and the server
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return the options of `nograd serve` with these arguments; raises where one does not exist."""
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]  # a group
    context = serve.make_context("serve", list(arguments), resilient_parsing=False)
    options = {key: value for key, value in context.params.items() if value not in (None, [], ())}
    return options | read_options({key: value for key, value in options.items() if key in ServeConfig.__slots__})


def container(name: str) -> Any:
    spec = loaded(name)["spec"]
    spec = spec["template"]["spec"] if "template" in spec else spec
    (found,) = spec["containers"]
    return found


CONTAINERS = ("kubernetes/deployment.yaml", "kserve/ServingRuntime.yaml")


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_yaml_and_says_what_it_is(name: str) -> None:
    documents = list(yaml.safe_load_all(FILES[name].read_text("utf-8")))

    assert len(documents) == 1
    assert name == "kubernetes/prometheus-adapter.yaml" or {"apiVersion", "kind"} <= set(documents[0])


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_server_understands_the_containers_arguments(name: str) -> None:
    options = parsed(entrypoint()[2:] + container(name)["args"])

    assert entrypoint()[:2] == ["nograd", "serve"]
    settings = {key: value for key, value in options.items() if key in ServeConfig.__slots__}
    assert ServeConfig(**settings).host == "0.0.0.0"
    assert {options["port"], options["grpc_port"]} >= {port["containerPort"] for port in container(name)["ports"]}


def test_the_images_own_command_is_understood() -> None:
    (command,) = [rest for name, rest in STEPS if name == "CMD"]

    assert parsed([*entrypoint()[2:], *json.loads(command)])["models"] == ["/models/model"]


def paths_asked() -> set[tuple[str, bool]]:
    """Every path that something asks for, and whether it has no key."""
    probes = {probe["path"] for name in FILES for probe in values(loaded(name), "httpGet")}
    scraped = {each["path"] for each in loaded("kubernetes/servicemonitor.yaml")["spec"]["endpoints"]}
    scraped.add(next(values(loaded("kubernetes/deployment.yaml"), "annotations"))["prometheus.io/path"])
    return {(path, True) for path in probes | scraped | set(re.findall(r"127\.0\.0\.1:8000(/[\w/]+)", DOCKERFILE))}


def test_every_probe_and_scrape_is_answered_without_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret-key-of-this-test\n")
    options = parsed(entrypoint()[2:] + container("kubernetes/deployment.yaml")["args"])

    with Site({"m": doubling()}, api_keys_file=str(keys), open_without_key=options["open_without_key"]) as site:
        answered = {path: site.get(path).status for path, _ in paths_asked()}
        assert site.get("/v2/models/m").status == 401

    assert answered == {"/v2/health/live": 200, "/v2/health/ready": 200, "/metrics": 200}


def test_probes_name_the_containers_ports() -> None:
    for name in CONTAINERS:
        ports = {port.get("name", port["containerPort"]) for port in container(name)["ports"]}
        assert {probe["port"] for probe in values(container(name), "httpGet")} <= ports
    service = loaded("kubernetes/service.yaml")["spec"]
    there = {port["name"] for port in container("kubernetes/deployment.yaml")["ports"]}
    assert {port["targetPort"] for port in service["ports"]} == there
    assert {each["port"] for each in loaded("kubernetes/servicemonitor.yaml")["spec"]["endpoints"]} <= there


def test_the_autoscalers_metric_exists() -> None:
    with Site({"m": doubling()}) as site:
        there = {each.name for each in text_string_to_metric_families(site.get("/metrics").body.decode())}
    (metric,) = values(loaded("kubernetes/autoscaler.yaml"), "metric")
    (rule,) = loaded("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]

    assert metric["name"] in there
    assert rule["name"]["as"] == metric["name"]
    assert rule["seriesQuery"].startswith(metric["name"] + "{")


def test_labels_and_names_fit_together() -> None:
    deployment = loaded("kubernetes/deployment.yaml")
    label = deployment["spec"]["template"]["metadata"]["labels"]

    assert deployment["spec"]["selector"]["matchLabels"] == label
    assert loaded("kubernetes/service.yaml")["spec"]["selector"] == label
    service_label = loaded("kubernetes/service.yaml")["metadata"]["labels"]
    assert loaded("kubernetes/servicemonitor.yaml")["spec"]["selector"]["matchLabels"] == service_label
    assert loaded("kubernetes/autoscaler.yaml")["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert {f"kubernetes/{name}" for name in loaded("kubernetes/kustomization.yaml")["resources"]} <= set(FILES)
    predictor = loaded("kserve/InferenceService.yaml")["spec"]["predictor"]["model"]
    runtime = loaded("kserve/ServingRuntime.yaml")
    assert predictor["runtime"] == runtime["metadata"]["name"]
    assert predictor["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert predictor["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}


def test_kubernetes_waits_as_long_as_the_server_may_take_to_stop() -> None:
    spec = loaded("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    options = parsed(entrypoint()[2:] + container("kubernetes/deployment.yaml")["args"])
    pause_s, grace_s = options["lame_duck_s"], options["grace_s"]
    assert pause_s > 0
    needed_s = pause_s + grace_s + run.RUNNING_BATCH_S + grace_s + access.FLUSH_S + tracing.FLUSH_S

    assert spec["terminationGracePeriodSeconds"] >= needed_s
    assert loaded("kserve/InferenceService.yaml")["spec"]["predictor"]["terminationGracePeriodSeconds"] >= needed_s - pause_s


def test_mounts_are_volumes_and_files_lie_in_mounts() -> None:
    spec = loaded("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    options = parsed(entrypoint()[2:] + spec["containers"][0]["args"])

    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    assert Path(options["api_keys_file"]).parent == Path(mounts["keys"])
    assert all(Path(model).is_relative_to(mounts["models"]) for model in options["models"])


def test_nothing_runs_as_root() -> None:
    (user,) = [rest for name, rest in STEPS if name == "USER"]
    security = loaded("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["securityContext"]

    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert security["runAsUser"] != 0
    assert f"--uid {security['runAsUser']} " in DOCKERFILE


def test_the_images_stages_and_sources_exist() -> None:
    stages: list[str] = []
    copied: list[str] = []
    for name, rest in STEPS:
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            assert base == "python:${PYTHON}-slim" or base in stages
            stages.append(stage)
        elif name == "COPY" and rest.startswith("--from="):
            assert rest.split()[0].removeprefix("--from=") in stages
        elif name == "COPY":
            copied += rest.split()[:-1]

    assert stages[-2:] == ["light", "torch"]
    assert all((ROOT / source).exists() for source in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert all(any(fnmatch(source, line.removeprefix("!")) for line in ignored if line.startswith("!")) for source in copied)


def test_the_image_installs_extras_that_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    asked = {extra for name, rest in STEPS if name == "ARG" and rest.startswith("EXTRAS=") for extra in rest[7:].split(",")}

    assert "torch" not in asked
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in asked | {"torch"})


def test_what_the_page_of_deployment_names_is_there() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")

    named = set(re.findall(r"deploy/[\w./-]*\w", page))
    applied = {f"deploy/kubernetes/{name}.yaml" for name in ("deployment", "service", "kustomization")}  # kubectl apply -k
    assert {f"deploy/{name}" for name in FILES} <= named | applied
    assert all((ROOT / name).exists() for name in named)
    targets = set(re.findall(r"--target (\w+)", page))
    assert targets <= {rest.partition(" AS ")[2] for name, rest in STEPS if name == "FROM"}
