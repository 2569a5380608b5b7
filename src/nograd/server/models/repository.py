"""Loading, reloading and unloading models while the server serves: the repository extension, without HTTP or gRPC.

A reload warms up the new models while the old ones serve, switches the table atomically, and then lets the old ones finish
their accepted requests. No request reaches a model that is not ready, but both are in memory for some time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nograd.errors import ConfigError, ModelLoadError, ModelNotFoundError, NogradError, UnavailableError, UnsupportedError
from nograd.predictors.predictor import Predictor
from nograd.runtime.threads import in_own_thread
from nograd.server.models.served import ServedModel
from nograd.server.models.table import ModelTable
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.telemetry.logs import event, failure

__all__ = ["Repository", "bundles_in"]

Versions = dict[str, ModelConfig]


class Repository:
    """The models that a server may load, and those that it has loaded.

    Args:
        table: the serving models.
        config: settings of the server.
        known: the configured models, by name.
        load: loads a model; blocks.
        made: creates the served model of a loaded one.
    """

    def __init__(
        self,
        table: ModelTable,
        config: ServeConfig,
        known: Sequence[ModelConfig],
        load: Callable[[ModelConfig], Predictor],
        made: Callable[[ModelConfig, Predictor], ServedModel],
    ) -> None:
        self._table = table
        self._is_on = config.has_repository
        self._folder = config.repository_dir
        self._known: dict[str, Versions] = {}
        self._load = load
        self._made = made
        self._states: dict[str, tuple[str, str]] = {}
        """Name -> state and reason of models that are not in the table."""

        self._changing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = False
        for model in known:
            if model.name:
                self.note(model)

    def note(self, model: ModelConfig) -> None:
        """Add a named model to those that can be loaded."""
        self._known.setdefault(model.name, {})[model.version] = model

    def require(self) -> None:
        """Raise UnsupportedError if the extension is off."""
        if not self._is_on:
            raise UnsupportedError(
                "models cannot be listed, loaded or unloaded: the repository extension is off; enable it with "
                "nograd serve --repository, or --repository-dir FOLDER"
            )

    def names(self) -> list[str]:
        """Return the names of all current, former and configured models."""
        return list(dict.fromkeys([*self._table.names(), *self._known, *self._states]))

    async def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Return all models that are served or can be loaded, in the form of the protocol's index.

        Args:
            ready: only ready models.

        Raises:
            UnsupportedError: the extension is off.
        """
        self.require()
        loadable = await asyncio.wrap_future(in_own_thread(self._loadable))
        listed = [
            each for name in dict.fromkeys([*self._table.names(), *loadable]) for each in self._index_entries(name, loadable)
        ]
        return [each for each in listed if each["state"] == "READY"] if ready else listed

    def _index_entries(self, name: str, loadable: Mapping[str, Versions]) -> Iterator[dict[str, str]]:
        served = self._table.names().get(name, {})
        state, reason = self._states.get(name, ("UNAVAILABLE", "not loaded"))
        for version in dict.fromkeys([*served, *loadable.get(name, {})]):
            model = served.get(version)
            if model is None:
                yield {"name": name, "version": version, "state": state, "reason": reason}
            elif model.ready:
                yield {"name": name, "version": version, "state": "READY", "reason": reason if name in self._states else ""}
            else:
                yield {"name": name, "version": version, "state": "UNAVAILABLE", "reason": model.trouble() or "not ready"}

    def _loadable(self) -> dict[str, Versions]:
        """Return the models that may be loaded: the configured ones, and the bundles in the folder under other names."""
        found = bundles_in(Path(self._folder)) if self._folder else {}
        return {**found, **self._known}

    async def load(self, name: str) -> None:
        """Load or reload all versions of a model; return when they are ready.

        Raises:
            UnsupportedError: the extension is off.
            ModelNotFoundError: there is no such model.
            ConfigError: a program passed the model to the server, so only that program can load it.
            NogradError: it could not be loaded; the earlier versions still serve.
        """
        self.require()
        async with self._changing:
            self._require_open()
            loadable = await asyncio.wrap_future(in_own_thread(self._loadable))
            if name not in loadable:
                if name in self._table.names():
                    raise ConfigError(f"model {name!r} was passed to the server by a program; only that program can reload it")
                raise ModelNotFoundError(
                    f"there is no model {name!r} to load; models that can be loaded: {', '.join(map(repr, loadable)) or 'none'}"
                )
            begun, is_reload = time.monotonic(), name in self._table.names()
            self._states[name] = ("LOADING", "")
            try:
                models = await self._start_models(list(loadable[name].values()))
            except Exception as error:
                reason = str(error) if isinstance(error, NogradError) else f"{type(error).__name__}: {error}"
                self._states[name] = ("UNAVAILABLE", f"it could not be loaded: {reason}")
                failure(f"load of {name}", error)
                if isinstance(error, NogradError):
                    raise
                raise ModelLoadError(f"model {name!r} could not be loaded: {reason}") from error
            except asyncio.CancelledError:
                self._states.pop(name, None)
                raise
            self._states.pop(name, None)
            self._let_go(self._table.put(name, models))
            event("loaded", model=name, versions=[model.version for model in models], reload=is_reload,
                  seconds=round(time.monotonic() - begun, 3))  # fmt: skip

    async def _start_models(self, models: Sequence[ModelConfig]) -> list[ServedModel]:
        """Start models and return them; if one fails, stop all of them."""
        opened: list[ServedModel] = []
        try:
            for model in models:
                predictor = await asyncio.wrap_future(in_own_thread(lambda model=model: self._load(model)))  # type: ignore[misc]
                opened.append(self._made(model, predictor))
                await opened[-1].start()
            self._require_open()  # the server may have begun to stop meanwhile, without knowing these models
        except BaseException:
            for each in opened:
                await each.leave()
            raise
        return opened

    async def unload(self, name: str) -> None:
        """Unload a model; return when it has finished its accepted requests and its memory is free.

        Raises:
            UnsupportedError: the extension is off.
            ModelNotFoundError: no such model is loaded.
        """
        self.require()
        async with self._changing:
            served = self._table.names()
            if name not in served:
                raise ModelNotFoundError(f"model {name!r} is not loaded; loaded are: {', '.join(map(repr, served)) or 'none'}")
            self._states[name] = ("UNLOADING", "")
            try:
                await asyncio.shield(self._let_go(self._table.put(name, [])))
            finally:
                self._states[name] = ("UNAVAILABLE", "unloaded")
            event("unloaded", model=name)

    def _let_go(self, models: Sequence[ServedModel]) -> asyncio.Task[None]:
        """Let models that were removed from the table finish their requests, and release them."""

        async def leave() -> None:
            await asyncio.gather(*(model.leave() for model in models))

        task = asyncio.get_running_loop().create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    def _require_open(self) -> None:
        if self._is_closed:
            raise UnavailableError("the server is stopping; it loads no models")

    async def stop(self) -> None:
        """Stop loading; return when all unloading models have finished."""
        self._is_closed = True
        await asyncio.gather(*self._leaving)


def bundles_in(folder: Path) -> dict[str, Versions]:
    """Return the bundles in a folder by name and version, as `FOLDER/NAME`, or `FOLDER/NAME/VERSION` with whole numbers.

    A bundle is a folder with a `bundle.json`, or a `.zip`; other files are ignored. The highest version is last.
    """
    from nograd.bundle import is_bundle

    found: dict[str, Versions] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_bundle(path):
            name = path.name.removesuffix(".zip")
            found[name] = {"1": ModelConfig(str(path), name, load=False)}
        elif path.is_dir():
            below = [each for each in path.iterdir() if each.name.removesuffix(".zip").isdecimal() and is_bundle(each)]
            numbers = {int(each.name.removesuffix(".zip")): each for each in below}
            if numbers:
                found[path.name] = {
                    str(number): ModelConfig(str(numbers[number]), path.name, str(number), load=False)
                    for number in sorted(numbers)
                }
    return found
