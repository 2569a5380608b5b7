"""Every error that nograd raises on purpose.

Each says what was given, what is allowed and, where it helps, what to do. The built-in that an error also is
keeps handlers written for that built-in working.

    NogradError
    ├── ConfigError (ValueError)            a setting is out of its range                    exit 2
    ├── MissingExtraError (ImportError)     an optional dependency is not installed          exit 2
    ├── ModelLoadError (RuntimeError)       a model could not be found or built              exit 2
    ├── ExportError (RuntimeError)          an export is refused, or answers otherwise       exit 1, has .parity
    ├── JobError (RuntimeError)             a run over a data set stopped; what is done is kept  exit 1
    ├── PortInUseError (OSError)            somebody else listens on the server's address    exit 2
    ├── SignatureError (ValueError)         the inputs are not the model's                   HTTP 400
    ├── ProtocolError (ValueError)          a request is malformed                           HTTP 400
    ├── ItemError (ValueError)              one item of many could not be prepared           has .index
    ├── UnauthorizedError (PermissionError) no API key, or one that is not known             HTTP 401
    ├── ForbiddenError (PermissionError)    a web page of another site, or another host      HTTP 403
    ├── ModelNotFoundError (LookupError)    no such model, version or path                   HTTP 404
    ├── MethodError (ValueError)            this path has no such method                     HTTP 405
    ├── TooLargeError (ValueError)          more bytes or rows than the limit                HTTP 413
    ├── UnsupportedError (RuntimeError)     right request, not something this can do         HTTP 501
    ├── OverloadedError (RuntimeError)      the queue is full or too slow; .retry_after_s    HTTP 503
    ├── UnavailableError (RuntimeError)     warming up, draining or closed                   HTTP 503
    │   └── DeviceLostError                 the device, or its thread, is gone               HTTP 503
    ├── DeadlineError (TimeoutError)        the answer would come too late                   HTTP 504
    └── ModelError (RuntimeError)           the model itself raised; the cause is chained    HTTP 500
        └── InputSizeError (SignatureError) an IndexError on an input larger than any sample HTTP 400
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nograd.core.parity import ParityReport

__all__ = [
    "ConfigError",
    "DeadlineError",
    "DeviceLostError",
    "ExportError",
    "ForbiddenError",
    "InputSizeError",
    "ItemError",
    "JobError",
    "MethodError",
    "MissingExtraError",
    "ModelError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NogradError",
    "OverloadedError",
    "PortInUseError",
    "ProtocolError",
    "SignatureError",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedError",
]


class NogradError(Exception):
    """The base of every error that nograd raises on purpose. It can be handed to another process, with all that it tells."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[NogradError], args: tuple[Any, ...], told: dict[str, Any]) -> NogradError:
    """Return an error as it was raised elsewhere; its own `__init__` makes a message, and is left out."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(told)
    return error


class ConfigError(NogradError, ValueError):
    """A setting is outside what is allowed."""


class MissingExtraError(NogradError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'nograd[{extra}]'")


class ModelLoadError(NogradError, RuntimeError):
    """A model could not be found, imported or built."""


class ExportError(NogradError, RuntimeError):
    """A model cannot be exported, or the export does not answer as the model does; the model itself is as it was."""

    def __init__(self, message: str, parity: ParityReport | None = None) -> None:
        super().__init__(message)
        self.parity = parity
        """The comparison that failed, where there was one."""


class JobError(NogradError, RuntimeError):
    """A run over a data set could not go on; what was done is kept, and the same command goes on behind it."""


class PortInUseError(NogradError, OSError):
    """Another program listens on the address that the server was told to use."""


class SignatureError(NogradError, ValueError):
    """Names, dtypes or shapes are not the model's."""


class ProtocolError(NogradError, ValueError):
    """A request does not follow the protocol."""


class ItemError(NogradError, ValueError):
    """One item among many could not be prepared; the rows before it were delivered."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index
        """Position of the item in the input, counted from 0."""


class ModelNotFoundError(NogradError, LookupError):
    """No model, version or path of that name is served here."""


class UnauthorizedError(NogradError, PermissionError):
    """The server needs an API key, and the request has none that it knows."""


class ForbiddenError(NogradError, PermissionError):
    """A request would change the server's state, and is from a web page of another site or for another host."""


class MethodError(NogradError, ValueError):
    """The path exists and takes another HTTP method."""

    def __init__(self, message: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class TooLargeError(NogradError, ValueError):
    """A request holds more than the configured limit."""


class UnsupportedError(NogradError, RuntimeError):
    """A valid wish that this object cannot fulfil."""


class OverloadedError(NogradError, RuntimeError):
    """The queue is full, or the answer would come too late; the request was refused at once and nothing was run."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When to try again, in seconds from now: the time that the queue needs to empty, predicted."""


class UnavailableError(NogradError, RuntimeError):
    """Not ready: warming up, draining or closed."""


class DeviceLostError(UnavailableError):
    """The device, or the thread that drives it, is gone; only a restart helps."""


class DeadlineError(NogradError, TimeoutError):
    """The request's time ran out before its answer came."""


class ModelError(NogradError, RuntimeError):
    """The model raised while it ran; the original error is the cause."""


class InputSizeError(ModelError, SignatureError):
    """The model raised IndexError on an input that is larger than all that it was probed with; its limit was not known."""
