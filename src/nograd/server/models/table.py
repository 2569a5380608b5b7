"""Which models answer under which name and version, and the change of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from nograd.errors import ModelNotFoundError

if TYPE_CHECKING:
    from nograd.server.models.served import ServedModel

__all__ = ["Find", "ModelTable"]

Find = Callable[[], "ServedModel"]
"""Returns the model that answers now; asked anew for every request, and not before its body is there."""


class ModelTable:
    """Models by name and version.

    All happens in the event loop's thread: who looks sees a name before or after a change, never between.
    """

    def __init__(self) -> None:
        self._names: dict[str, dict[str, ServedModel]] = {}
        self.infer_paths: dict[bytes, Find] = {}
        """Paths of infer calls, as clients write them; the same in other letters (percent-encoded) is found by `find`."""

    def __iter__(self) -> Iterator[ServedModel]:
        """Yield every version of every model."""
        for versions in self._names.values():
            yield from versions.values()

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def names(self) -> Mapping[str, Mapping[str, ServedModel]]:
        """Return the models by name, then by version, the newest last."""
        return self._names

    def add(self, model: ServedModel) -> None:
        """Let a model answer, as the newest version of its name."""
        self.put(model.name, [*self._names.get(model.name, {}).values(), model])

    def put(self, name: str, models: Sequence[ServedModel]) -> list[ServedModel]:
        """Let these be all versions of a name, the newest last; return those that were until now."""
        old = list(self._names.get(name, {}).values())
        for path in self._paths(name, [None, *(model.version for model in old)]):
            self.infer_paths.pop(path, None)
        if models:
            self._names[name] = {model.version: model for model in models}
            for version in [None, *self._names[name]]:
                for path in self._paths(name, [version]):
                    self.infer_paths[path] = partial(self.find, name, version)
        else:
            self._names.pop(name, None)
        return [model for model in old if model not in models]

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model: of the version asked for, else the newest that is ready, else the newest.

        Raises:
            ModelNotFoundError: no model, or no version, of that name is served.
        """
        versions = self._names.get(name)
        if versions is None:
            served = ", ".join(map(repr, self._names)) or "none"
            raise ModelNotFoundError(f"there is no model {name!r}; served here: {served}")
        if version is not None:
            if version not in versions:
                raise ModelNotFoundError(
                    f"model {name!r} has no version {version!r}; served here: {', '.join(map(repr, versions))}"
                )
            return versions[version]
        if len(versions) == 1:
            return next(iter(versions.values()))
        ready = (model for model in reversed(versions.values()) if model.ready)
        return next(ready, next(reversed(versions.values())))

    @staticmethod
    def _paths(name: str, versions: Sequence[str | None]) -> Iterator[bytes]:
        base = f"/v2/models/{quote(name, safe='')}"
        for version in versions:
            yield (f"{base}/infer" if version is None else f"{base}/versions/{quote(version, safe='')}/infer").encode()
