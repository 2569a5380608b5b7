"""Loading, reloading and unloading models while the server serves: the repository extension, without HTTP or gRPC.

A reload warms the new models beside the old ones, then changes the table at once, and only then lets the old ones answer what
they have accepted and go. So no request meets a model that is not ready; both are in memory for a while.
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
    """The models that a server may have, and which of them it has.

    Args:
        table: which models answer.
        config: of the server.
        known: the models that are configured, with their names.
        load: loads one, blocking.
        made: makes what is served of one that is loaded.
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
        """Name -> state and reason, where the table does not say it."""

        self._changing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = False
        for model in known:
            if model.name:
                self.note(model)

    def note(self, model: ModelConfig) -> None:
        """Have a model, which has a name, among those that can be loaded."""
        self._known.setdefault(model.name, {})[model.version] = model

    def require(self) -> None:
        """Raise UnsupportedError where the extension is off."""
        if not self._is_on:
            raise UnsupportedError(
                "models cannot be listed, loaded or unloaded here: the repository extension is off; it is turned on by "
                "nograd serve --repository, or --repository-dir FOLDER"
            )

    def names(self) -> list[str]:
        """Return every name that the server has, has had or is configured to have."""
        return list(dict.fromkeys([*self._table.names(), *self._known, *self._states]))

    async def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Return every model that is served or could be, as the protocol's index has them.

        Args:
            ready: only those that answer.

        Raises:
            UnsupportedError: the extension is off.
        """
        self.require()
        loadable = await asyncio.wrap_future(in_own_thread(self._loadable))
        listed = [each for name in dict.fromkeys([*self._table.names(), *loadable]) for each in self._told(name, loadable)]
        return [each for each in listed if each["state"] == "READY"] if ready else listed

    def _told(self, name: str, loadable: Mapping[str, Versions]) -> Iterator[dict[str, str]]:
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
        """Load all versions of a model, or load them anew; return when they answer.

        Raises:
            UnsupportedError: the extension is off.
            ModelNotFoundError: there is no such model.
            ConfigError: it was given by a program, which alone could load it.
            NogradError: it could not be loaded; what answered before still does.
        """
        self.require()
        async with self._changing:
            self._require_open()
            loadable = await asyncio.wrap_future(in_own_thread(self._loadable))
            if name not in loadable:
                if name in self._table.names():
                    raise ConfigError(f"model {name!r} was handed to the server by a program; only that can load it anew")
                raise ModelNotFoundError(
                    f"there is no model {name!r} to load; there are: {', '.join(map(repr, loadable)) or 'none'}"
                )
            begun, is_reload = time.monotonic(), name in self._table.names()
            self._states[name] = ("LOADING", "")
            try:
                models = await self._opened(list(loadable[name].values()))
            except Exception as error:
                told = str(error) if isinstance(error, NogradError) else f"{type(error).__name__}: {error}"
                self._states[name] = ("UNAVAILABLE", f"it could not be loaded: {told}")
                failure(f"load of {name}", error)
                if isinstance(error, NogradError):
                    raise
                raise ModelLoadError(f"model {name!r} could not be loaded: {told}") from error
            except asyncio.CancelledError:
                self._states.pop(name, None)
                raise
            self._states.pop(name, None)
            self._let_go(self._table.put(name, models))
            event("loaded", model=name, versions=[model.version for model in models], reload=is_reload,
                  seconds=round(time.monotonic() - begun, 3))  # fmt: skip

    async def _opened(self, models: Sequence[ModelConfig]) -> list[ServedModel]:
        """Return models that answer: all of them, or none is kept."""
        opened: list[ServedModel] = []
        try:
            for model in models:
                predictor = await asyncio.wrap_future(in_own_thread(lambda model=model: self._load(model)))  # type: ignore[misc]
                opened.append(self._made(model, predictor))
                await opened[-1].start()
            self._require_open()  # the server may have been told to stop meanwhile, and would not know of these
        except BaseException:
            for each in opened:
                await each.leave()
            raise
        return opened

    async def unload(self, name: str) -> None:
        """Let a model answer no more; return when it has answered what it had accepted, and its memory is free.

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
        """Have models that nobody finds any more answer what they have, and leave."""

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
        """Load nothing any more; return when those that leave have left."""
        self._is_closed = True
        await asyncio.gather(*self._leaving)


def bundles_in(folder: Path) -> dict[str, Versions]:
    """Return the bundles in a folder by name and version, as `FOLDER/NAME`, or `FOLDER/NAME/VERSION` with whole numbers.

    A bundle is a folder with a `bundle.json`, or a `.zip`; what else lies there is not looked at. The highest version is last.
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
