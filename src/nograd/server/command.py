"""`nograd serve`: run a server with the given settings until it receives a signal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd import __version__
from nograd.errors import ConfigError
from nograd.runtime.exits import end_on_signals
from nograd.runtime.redaction import mask_url
from nograd.runtime.spinner import spinner
from nograd.runtime.threads import in_own_thread
from nograd.server.banner import greeting
from nograd.server.models.service import InferenceService
from nograd.server.run import bind, grpc_front_kind, serve
from nograd.server.settings.model_config import ModelConfig, open_model
from nograd.server.settings.resolution import CONFIG_VARIABLE, ResolvedSettings, read_file, settle
from nograd.server.telemetry.logs import configure, event
from nograd.server.telemetry.tracing import require_otel

if TYPE_CHECKING:
    from nograd.server.workers.worker_peers import WorkerPeers

__all__ = ["check_early", "run_server", "settings_of"]


def settings_of(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any], models: Sequence[ModelConfig] = ()
) -> ResolvedSettings:
    """Read the file, and return the effective settings; other arguments and errors as for `settle`.

    Args:
        file: path of the file; None: the path in the environment, if set.
    """
    named = file or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    read = None if named is None else (str(named), read_file(named))
    return settle(read, environment, flags, models)


def check_early(settings: ResolvedSettings) -> None:
    """Check everything that can be checked before slow work starts.

    Raises:
        ConfigError: there is no model to serve, a TLS file is invalid, or the repository's folder does not exist.
        MissingExtraError: gRPC or traces are enabled but not installed.
        PortInUseError: the gRPC port is in use.
    """
    config = settings.config
    if config.repository_dir and not Path(config.repository_dir).is_dir():
        raise ConfigError(f"repository_dir is {config.repository_dir!r}; there is no such folder")
    if not any(model.load for model in settings.models) and not config.has_repository:
        raise ConfigError(
            "there is no model to serve; name one (nograd serve minilm), list some in a file (--config nograd.toml, with "
            "[[models]]), or let clients load them (--repository-dir FOLDER)"
        )
    if config.tls is not None:
        config.tls.context()
    if config.traces:
        require_otel()
    if config.grpc_port is not None:
        grpc_front_kind()
        bind(config.host, config.grpc_port, "--grpc-port").close()


def run_server(settings: ResolvedSettings, say: Callable[[str], None], siblings: WorkerPeers | None = None) -> None:
    """Load and warm up the models, and serve until a signal arrives.

    Args:
        settings: settings of the server.
        say: called with the start message and the stop message; not called if the log is JSON.
        siblings: the other workers, if there are several; `say` is then called only with the start message, for any log format.

    Raises:
        NogradError: a model cannot be loaded, a port is not available, or there is no model to serve.
    """
    config = settings.config
    configure(config.log_format, config.log_level, **({} if siblings is None else {"worker": siblings.worker}))
    with end_on_signals(_note_early_end):
        _load_and_serve(settings, say, siblings)


def _note_early_end(name: str) -> None:
    event("stopped", signal=name, reason="the models were not ready yet")


def _load_and_serve(settings: ResolvedSettings, say: Callable[[str], None], siblings: WorkerPeers | None) -> None:
    config = settings.config
    if siblings is None:
        check_early(settings)
    service = InferenceService(config, settings.models)
    service.peers = siblings
    listener = bind(config.host, config.port, shared=siblings is not None)
    event(
        "starting",
        version=__version__,
        models=[mask_url(model.model) for model in settings.models if model.load],
        pid=os.getpid(),
    )
    for model in settings.models:
        if model.load:
            with spinner(f"loading {mask_url(model.model)}"):
                _add(service, model)
    warming = ExitStack()

    def ready(grpc_at: int | None) -> None:
        warming.close()
        url = f"http{'s' if config.tls_cert else ''}://{config.address(listener.getsockname()[1])}"
        grpc = "" if grpc_at is None else config.address(grpc_at)
        event("ready", url=url, grpc=grpc or None, models=list(dict.fromkeys(model.name for model in service.models)))
        if config.log_format == "text" or siblings is not None:  # with JSON logs, the output must contain only JSON
            say(greeting(url, service.models, grpc, repository=config.has_repository))

    with warming:
        warming.enter_context(spinner("warming up"))
        serve(service, listener, ready, siblings)
    event("stopped")
    if config.log_format == "text" and siblings is None:
        say("stopped")


def _add(service: InferenceService, model: ModelConfig) -> None:
    service.add_configured(model, in_own_thread(lambda: open_model(model, service.config)).result())
