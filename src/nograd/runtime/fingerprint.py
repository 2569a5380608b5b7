"""Fingerprints: a digest of everything except the input that an answer depends on: weights, settings and code.

Objects with equal fingerprints give equal answers, also in other processes. Objects whose content cannot be read get a private
fingerprint. Numbers, strings, containers, arrays and tensors are read by content; functions by code, closure and the global
variables that they use, recursively; objects by class and attributes; weak references by the object that they refer to;
installed libraries by name and version. Fingerprints do not include what code reads while it runs: files, the environment,
other services.

torch is never imported here.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import threading
import types
import uuid
import weakref
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from hashlib import blake2b, file_digest
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np

from nograd.runtime.module_state import without_bookkeeping

__all__ = ["Fingerprint", "is_library", "of_files", "of_object", "of_value"]

DIGEST_BYTES = 16

_CACHED = type(cache(lambda: None))

_FIELD = type(namedtuple("_", "field").field)  # type: ignore[attr-defined]  # noqa: PYI024  what reads a named tuple's field

_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.local)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A digest, and whether other processes can have the same one."""

    text: str
    private_because: str = ""
    """Why the fingerprint is valid in this process only, in one sentence; empty if it is not."""


def of_object() -> Fingerprint:
    """Return a unique fingerprint."""
    return Fingerprint(f"private-{uuid.uuid4().hex}", "its answers depend on state that cannot be read")


def of_value(*values: Any) -> Fingerprint:
    """Return the fingerprint of values; a unique one if the content of a value cannot be read."""
    hasher = blake2b(digest_size=DIGEST_BYTES)
    try:
        _ValueHasher(hasher.update).read_all("values", values)
    except _OpaqueError as error:
        return Fingerprint(f"private-{uuid.uuid4().hex}", str(error))
    return Fingerprint(hasher.hexdigest())


def of_files(*paths: Path) -> str:
    """Return a digest of files' contents.

    Raises:
        OSError: a file cannot be read.
    """
    hasher = blake2b(digest_size=DIGEST_BYTES)
    for path in paths:
        with path.open("rb") as file:
            hasher.update(file_digest(file, partial(blake2b, digest_size=DIGEST_BYTES)).digest())
    return hasher.hexdigest()


class _OpaqueError(Exception):
    """The content of a value cannot be read."""


class _ValueHasher:
    """Feeds values to a hash, each with its kind and length, so that different values never feed equal bytes."""

    def __init__(self, feed: Callable[[bytes], object]) -> None:
        self._feed = feed
        self._seen: dict[int, int] = {}
        self._classes: set[type] = set()
        self._kept: list[Any] = []  # keeps visited objects alive, because ids of dead objects are reused

    def read_all(self, kind: str, values: Sequence[Any]) -> None:
        self._word(f"{kind} {len(values)}")
        for value in values:
            self.read(value)

    def read(self, value: Any) -> None:
        """Feed one value.

        Raises:
            _OpaqueError: it contains something whose content cannot be read.
        """
        if value is None or (isinstance(value, bool | int | float | complex | str | PurePath) and not isinstance(value, Enum)):
            self._word(f"{type(value).__name__} {value!r}")
        elif isinstance(value, bytes | bytearray):
            self._word(type(value).__name__)
            self._data(bytes(value))
        elif id(value) in self._seen:
            self._word(f"again {self._seen[id(value)]}")
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._read_new(value)

    def _read_new(self, value: Any) -> None:  # noqa: C901, PLR0912  one branch for each kind
        if isinstance(value, Enum):
            self._word(f"enum {type(value).__qualname__}.{value.name}")
        elif isinstance(value, Mapping):
            self.read_all("mapping", [part for item in list(value.items()) for part in item])
            self._class(type(value))
            self.read(getattr(value, "default_factory", None))
        elif isinstance(value, AbstractSet):
            self._word(f"set {sorted(of_value(member).text for member in value)}")
        elif isinstance(value, list | tuple | types.SimpleNamespace | slice | range | re.Pattern):
            self._class(type(value))
            self.read_all("parts", _parts(value))
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value))
        elif _is_torch(value, "Tensor"):
            self._tensor(value)
        elif any(_is_torch(value, name) for name in ("dtype", "device", "layout")) or isinstance(value, np.dtype):
            self._word(f"{type(value).__name__} {value}")
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.read_all("method", (value.__func__, value.__self__))
        elif isinstance(value, _CACHED):
            self.read_all("cached", (value.__wrapped__,))
        elif isinstance(value, partial):
            self.read_all("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType | np.ufunc):
            owner = getattr(value, "__self__", None)
            self._word(f"builtin {getattr(value, '__module__', '')} {getattr(value, '__qualname__', value.__name__)}")
            self.read(owner if not isinstance(owner, types.ModuleType) else owner.__name__)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, staticmethod | classmethod | property):
            self.read_all(type(value).__name__, _parts(value))
        elif isinstance(value, _FIELD):
            self.read_all("field", cast("tuple[Any, ...]", value.__reduce__())[1])
        elif isinstance(value, weakref.ReferenceType):  # an LSTM refers to its own weights by weak references
            self.read_all("weak reference", (value(),))
        elif isinstance(value, _LOCKS):
            self._word("lock")
        elif type(value).__module__ == "logging":
            self._word(f"logging {getattr(value, 'name', '')}")
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        own = getattr(value, "fingerprint", None)
        if callable(own):
            self._word(f"own {_own_text(own(), value)}")
            self._class(type(value))
            return
        state = _state(value)
        if state is None:
            raise _OpaqueError(
                f"it contains a {type(value).__module__}.{type(value).__qualname__}, whose content cannot be read"
            )
        self._class(type(value))
        self.read_all("state", [part for name in sorted(state) for part in (name, state[name])])

    # -- data

    def _word(self, word: str) -> None:
        self._data(word.encode("utf-8", "surrogatepass"))

    def _data(self, data: bytes | memoryview) -> None:
        self._feed(len(data).to_bytes(8, "little"))
        self._feed(data)  # type: ignore[arg-type]

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        self._word(f"array {array.dtype.newbyteorder('=').name} {array.shape}")
        if array.dtype.hasobject:
            self.read_all("objects", array.ravel().tolist())
        else:
            native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            self._data(native.tobytes() if not native.size else native.reshape(-1).view(np.uint8).data)

    def _tensor(self, tensor: Any) -> None:
        torch = sys.modules["torch"]
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise _OpaqueError("it contains a lazy parameter, which has no content before the first run")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise _OpaqueError(
                f"it contains a tensor of layout {tensor.layout} on {tensor.device}, whose content cannot be read"
            )
        self._word(f"tensor {tensor.dtype} {tuple(tensor.shape)}")
        plain = tensor.detach().to("cpu").contiguous().reshape(-1)
        if plain.numel():
            self._array(plain.resolve_conj().resolve_neg().view(torch.uint8).numpy())

    # -- code

    def _class(self, found: type) -> None:
        """Feed a class by name, and by code if it is the user's own.

        A library's class may have a user's class as base: torch derives one from the class of a module with parametrizations.
        """
        library = _library(found.__module__)
        self._word(f"class {found.__module__}.{found.__qualname__} {library or ''}")
        if found in self._classes or all(_library(kind.__module__) is not None for kind in found.__mro__):
            return
        self._classes.add(found)
        for base in found.__bases__:
            self._class(base)
        if library is not None:
            return
        for name, member in sorted(vars(found).items()):
            if name not in _NOT_CODE and not isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
                self._word(name)
                self.read(member)

    def _function(self, function: types.FunctionType) -> None:
        library = _library(function.__module__)
        self._word(f"function {function.__module__}.{function.__qualname__} {library or ''}")
        if library is not None and "<" not in function.__qualname__:
            return
        self.read_all("cells", [_content(cell) for cell in function.__closure__ or ()])
        self.read_all("defaults", [function.__defaults__, function.__kwdefaults__])
        if library is None:
            self._code(function.__code__, function.__globals__)
        else:  # library functions of equal names differ by position, in this version of the library
            self._word(" ".join(map(str, function.__code__.co_positions())))

    def _code(self, code: types.CodeType, names: Mapping[str, Any]) -> None:
        self._data(code.co_code)
        self.read_all("names", [code.co_names, code.co_varnames, code.co_freevars])
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, names)
            else:
                self.read(constant)
        for name in code.co_names:
            if name in names:
                self._word(f"global {name}")
                self.read(names[name])
            elif name in sys.modules:  # imported within the function
                self._module(sys.modules[name])

    def _module(self, module: types.ModuleType) -> None:
        library = _library(module.__name__)
        self._word(f"module {module.__name__} {library or ''}")
        if library is None:
            self._word(_source_digest(module))


_SOURCE_DIGESTS: weakref.WeakKeyDictionary[types.ModuleType, str] = weakref.WeakKeyDictionary()


def _source_digest(module: types.ModuleType) -> str:
    """Return the digest of a module's source, read once, because later edits of the file do not change the loaded code."""
    if module not in _SOURCE_DIGESTS:
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_file():
            raise _OpaqueError(f"it uses the module {module.__name__}, which has no source file")
        _SOURCE_DIGESTS[module] = of_files(Path(file))
    return _SOURCE_DIGESTS[module]


_NOT_CODE = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__abstractmethods__", "_abc_impl",
     "__parameters__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__slots__", "__match_args__",
     "__dataclass_fields__", "__dataclass_params__", "__annotate__", "__annotations_cache__"),
)  # fmt: skip


def _parts(value: Any) -> list[Any]:
    """Return the parts of a plain value."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, slice | range):
        return [value.start, value.stop, value.step]
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if isinstance(value, property):
        return [value.fget, value.fset]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    return [part for item in sorted(vars(value).items()) for part in item]


def _state(value: Any) -> dict[str, Any] | None:
    """Return an object's attributes; None if a class of it is native code, because it may have hidden state."""
    kinds = [kind for kind in type(value).__mro__ if kind is not object]
    if any(map(_is_native, kinds)):
        return None
    state = {name: getattr(value, name) for name in _slots(kinds) if hasattr(value, name)}
    state |= getattr(value, "__dict__", {})
    return without_bookkeeping(state) if _is_torch(value, "nn.Module") else state


@cache
def _is_native(kind: type) -> bool:
    """Return whether a class is native (C, Rust, ...): it has its own methods that are not Python functions."""
    own = {name: member for name, member in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return isinstance(own.get("__new__"), types.BuiltinFunctionType) or any(
        getattr(member, "__objclass__", None) is kind and not isinstance(member, types.MemberDescriptorType)
        for member in own.values()
    )


def _slots(kinds: Sequence[type]) -> list[str]:
    listed = [vars(kind).get("__slots__", ()) for kind in kinds]
    names = [name for slots in listed for name in ([slots] if isinstance(slots, str) else slots)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the name is not bound yet
        return None


def _own_text(own: Any, value: Any) -> str:
    """Return the text of an object's own `fingerprint()`.

    Raises:
        _OpaqueError: the fingerprint is private or not a string.
    """
    if isinstance(own, Fingerprint):
        if own.private_because:
            raise _OpaqueError(own.private_because)
        return own.text
    if not isinstance(own, str):
        raise _OpaqueError(f"{type(value).__qualname__}.fingerprint() returned {type(own).__name__}, not a string")
    return own


def _is_torch(value: Any, name: str) -> bool:
    found: Any = sys.modules.get("torch")
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(value, found)


def _library(module_name: str | None) -> str | None:
    """Return name and version of the installed library of a module; None for the user's own code."""
    top = (module_name or "").partition(".")[0]
    return _installed(top) if top in sys.modules or top in sys.stdlib_module_names else None


@cache
def _installed(top: str) -> str | None:
    if not is_library(top):
        return None
    if top in sys.stdlib_module_names:
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    return f"{top} {getattr(sys.modules[top], '__version__', None) or _distribution_version(top)}"


@cache
def is_library(top: str) -> bool:
    """Return whether an imported top-level module belongs to Python, nograd or an installed library, not to the user."""
    if top in sys.stdlib_module_names or top == "nograd":
        return top != "__main__"
    module = sys.modules[top]
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return file is not None and any(Path(file).is_relative_to(folder) for folder in _library_folders())


def _distribution_version(top: str) -> str:
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        file = getattr(sys.modules.get(top), "__file__", None)
        return of_files(Path(file)) if file else "?"


@cache
def _library_folders() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
