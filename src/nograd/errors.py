"""Every error that nograd raises on purpose.

Messages say what was given, what is allowed and, if useful, what to do. Each error also derives from a built-in exception,
so that existing handlers of that built-in keep working.

    NogradError
    ├── ConfigError (ValueError)            a setting is out of its range                    exit 2
    ├── MissingExtraError (ImportError)     an optional dependency is not installed          exit 2
    ├── ModelLoadError (RuntimeError)       a model could not be found or built              exit 2
    ├── ExportError (RuntimeError)          an export failed, or its answers differ          exit 1, has .parity
        ├── JobError (RuntimeError)             a run over a data set stopped; rerun it to resume    exit 1
        ├── PortInUseError (OSError)            the server's address is already in use           exit 2
    ├── SignatureError (ValueError)         the inputs are not the model's                   HTTP 400
    ├── ProtocolError (ValueError)          a request is malformed                           HTTP 400
    ├── ItemError (ValueError)              one item of many could not be prepared           has .index
        ├── UnauthorizedError (PermissionError) the API key is missing or unknown                HTTP 401
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
    """Base class of all errors that nograd raises on purpose. Errors can be pickled with all their attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[NogradError], args: tuple[Any, ...], attributes: dict[str, Any]) -> NogradError:
    """Restore a pickled error without calling its `__init__`, whose arguments are not the message."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigError(NogradError, ValueError):
    """A setting is out of its range."""


class MissingExtraError(NogradError, ImportError):
    """An optional dependency is not installed; the message contains the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'nograd[{extra}]'")


class ModelLoadError(NogradError, RuntimeError):
    """A model could not be found, imported or built."""


class ExportError(NogradError, RuntimeError):
    """A model cannot be exported, or the exported file's answers differ. The model itself is unchanged."""

    def __init__(self, message: str, parity: ParityReport | None = None) -> None:
        super().__init__(message)
        self.parity = parity
        """The failed comparison; None if the export failed before it."""


class JobError(NogradError, RuntimeError):
    """A run over a data set stopped. Finished work is kept; rerun the command to resume."""


class PortInUseError(NogradError, OSError):
    """The server's address is already in use by another program."""


class SignatureError(NogradError, ValueError):
    """Names, dtypes or shapes do not match the model."""


class ProtocolError(NogradError, ValueError):
    """A request does not follow the protocol."""


class ItemError(NogradError, ValueError):
    """One item of many could not be prepared; earlier rows were delivered."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index
        """Position of the item in the input, starting at 0."""


class ModelNotFoundError(NogradError, LookupError):
    """The requested model, version or path does not exist on this server."""


class UnauthorizedError(NogradError, PermissionError):
    """The server requires an API key; the request has none, or an unknown one."""


class ForbiddenError(NogradError, PermissionError):
    """A web page of another site, or a request for another host, tried to change the server's state."""


class MethodError(NogradError, ValueError):
    """The path exists, but does not support this HTTP method."""

    def __init__(self, message: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class TooLargeError(NogradError, ValueError):
    """A request exceeds the configured size limit."""


class UnsupportedError(NogradError, RuntimeError):
    """A valid request that this object does not support."""


class OverloadedError(NogradError, RuntimeError):
    """The queue is full, or the answer would miss its deadline. The request was rejected immediately and did not run."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Predicted time until the queue is empty, in seconds; retry after it."""


class UnavailableError(NogradError, RuntimeError):
    """The server or model is warming up, draining or closed."""


class DeviceLostError(UnavailableError):
    """The device, or the thread that drives it, failed; restart the process."""


class DeadlineError(NogradError, TimeoutError):
    """The deadline of the request expired before its answer was ready."""


class ModelError(NogradError, RuntimeError):
    """The model raised an error while it ran; the original error is chained as the cause."""


class InputSizeError(ModelError, SignatureError):
    """The model raised IndexError on an input larger than every probed size; the model's limit was not known."""
