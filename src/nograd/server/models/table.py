"""The table of serving models by name and version, with atomic changes."""

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
"""Returns the current model; called for every request after its body has arrived."""


class ModelTable:
    """Models by name and version.

    All changes happen in the event loop's thread, so readers never see a partial change.
    """

    def __init__(self) -> None:
        self._names: dict[str, dict[str, ServedModel]] = {}
        self.infer_paths: dict[bytes, Find] = {}
        """Usual paths of infer calls; other spellings (percent-encoded) are resolved by `find`."""

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
        """Add a model as the newest version of its name."""
        self.put(model.name, [*self._names.get(model.name, {}).values(), model])

    def put(self, name: str, models: Sequence[ServedModel]) -> list[ServedModel]:
        """Replace all versions of a name, the newest last; return the earlier ones."""
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
        """Return a model: the requested version, or without a version the newest ready one, or the newest.

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
