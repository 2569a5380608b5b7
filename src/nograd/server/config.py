"""What `nograd serve` can be told, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from nograd.errors import ConfigError
from nograd.server.keys import AREAS
from nograd.server.logs import FORMATS, LEVELS
from nograd.server.tls import Tls

__all__ = ["ServeConfig"]


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Settings of a server."""

    host: str = "127.0.0.1"
    """Address to listen on; this machine only, unless told otherwise."""

    port: int = 8000
    """TCP port; 0 takes a free one."""

    grpc_port: int | None = None
    """TCP port for gRPC; 0 takes a free one, None serves HTTP only."""

    max_batch_size: int = 32
    """Rows in one run, at most. A bundle's model runs no more than its curve was measured with, where that counts rows."""

    max_wait_ms: float = 0.0
    """Longest wait of a request for company, in milliseconds."""

    max_queue_rows: int = 1024
    """Rows that may wait for the device; a request beyond is refused at once."""

    timeout_s: float = 30.0
    """Seconds after which a request that names no time-out of its own is answered 504."""

    grace_s: float = 30.0
    """Seconds that accepted requests have to finish when the server is told to stop."""

    lame_duck_s: float = 0.0
    """Seconds after being told to stop in which requests are still taken, while readiness is false already: as long as those
    who send requests need to hear of it."""

    max_body_bytes: int = 64 * 2**20
    """Bytes of one request's body, at most."""

    cache_mb: float = 64.0
    """Megabytes of memory for answers that may be asked for again; 0: none are kept."""

    cache_url: str = ""
    """A Redis, such as `redis://localhost:6379/0`, in which answers are kept for other servers, too; empty: none."""

    cache_ttl_s: float | None = None
    """Seconds that a kept answer lives; None: in memory until there is no room, in Redis a week. Answers do not age."""

    log_format: str = "text"
    """Of the log's lines, on stderr: `text` or `json`."""

    log_level: str = "info"
    """The least level that is logged: debug, info, warning or error."""

    access_log: bool = False
    """Whether every request is a line of the log, whatever its level."""

    tls_cert: str = ""
    """PEM file of the server's certificate, and of those between it and its authority; empty: no TLS."""

    tls_key: str = ""
    """PEM file of its private key."""

    tls_ca: str = ""
    """PEM file of authorities: clients need a certificate of one of them; empty: they need none."""

    api_keys_file: str = ""
    """File of API keys, one a line, `KEY` or `NAME: KEY`; empty: those in NOGRAD_API_KEYS, or none are needed."""

    open_without_key: str = ""
    """What needs no API key, beside health: `metrics`, `page`, or both with a comma."""

    stuck_after_s: float = 30.0
    """Seconds of one run after which the device counts as stuck, and liveness fails; or 20 times the prediction, if more."""

    traces: str = ""
    """Where OpenTelemetry's traces are sent, OTLP over HTTP, such as `http://localhost:4318`; empty: nowhere."""

    device: str = "auto"
    """`auto`, or a torch device."""

    trusted: bool = False
    """Whether models that hold or name code (`.pt2`, `.pt`, some bundles) are opened."""

    workers: int = 1
    """Processes that serve, on one port; where devices are listed and this is 1, one for each."""

    devices: str = ""
    """Torch devices with commas, such as `cuda:0,cuda:1`: each worker has the next; empty: all have `device`."""

    repository: bool = False
    """Whether clients may load, reload and unload the models that are configured: the repository extension."""

    repository_dir: str = ""
    """A folder whose bundles they may load, too; turns the extension on."""

    def __post_init__(self) -> None:
        self._check_ports()
        self._check_operation()
        for name in ("max_batch_size", "max_queue_rows", "max_body_bytes", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.cache_ttl_s is not None and not (isfinite(self.cache_ttl_s) and self.cache_ttl_s > 0):
            raise ConfigError(f"cache_ttl_s is {self.cache_ttl_s}; it must be above 0, finite")
        if self.cache_url and not self.cache_mb:
            raise ConfigError("cache_url is set and cache_mb is 0; answers from Redis are kept in memory, too: give it some")
        for name in ("max_wait_ms", "grace_s", "lame_duck_s", "cache_mb"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more, finite")
        self._check_workers()
        if not (isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ConfigError(f"timeout_s is {self.timeout_s}; it must be above 0, finite")

    def address(self, port: int) -> str:
        """Return host and port as they are written in a URL.

        >>> ServeConfig(host="::1").address(8000)
        '[::1]:8000'
        """
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def has_workers(self) -> bool:
        """Whether processes of their own serve, and this one looks after them."""
        return self.workers > 1 or bool(self.devices)

    def _check_workers(self) -> None:
        listed = [word for word in self.devices.split(",") if word.strip()]
        if self.devices and not listed:
            raise ConfigError(f"devices is {self.devices!r}; it must be torch devices with commas, such as cuda:0,cuda:1")
        if self.devices and self.device != "auto":
            raise ConfigError(f"devices is {self.devices!r} and device is {self.device!r}; give one of them")
        if 1 < self.workers < len(listed):
            raise ConfigError(
                f"workers is {self.workers}, for {len(listed)} devices ({self.devices}); it must be at least that"
            )
        if self.has_workers and self.has_repository:
            raise ConfigError(
                "repository is on and there are workers; models are loaded into one process only: serve with one, or "
                "without the repository"
            )

    @property
    def has_repository(self) -> bool:
        """Whether the repository extension is on."""
        return self.repository or bool(self.repository_dir)

    @property
    def tls(self) -> Tls | None:
        """Certificate and key; None without TLS."""
        return Tls(self.tls_cert, self.tls_key, self.tls_ca) if self.tls_cert else None

    def _check_operation(self) -> None:
        for name, value, allowed in (("log_format", self.log_format, FORMATS), ("log_level", self.log_level, LEVELS)):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if bool(self.tls_cert) != bool(self.tls_key):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ConfigError(f"{given} is set and {missing} is not; TLS takes a certificate and its key")
        if self.tls_ca and not self.tls_cert:
            raise ConfigError("tls_ca is set and tls_cert is not; clients' certificates are asked for over TLS only")
        if self.traces and not self.traces.startswith(("http://", "https://")):
            raise ConfigError(f"traces is {self.traces!r}; it is the URL of a collector, such as http://localhost:4318")
        for area in filter(None, (word.strip() for word in self.open_without_key.split(","))):
            if area not in AREAS:
                raise ConfigError(f"open_without_key has {area!r}; it takes {' and '.join(AREAS)}, with a comma")
        if not (isfinite(self.stuck_after_s) and self.stuck_after_s > 0):
            raise ConfigError(f"stuck_after_s is {self.stuck_after_s}; it must be above 0, finite")

    def _check_ports(self) -> None:
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port)):
            if port is not None and not 0 <= port <= 65535:
                raise ConfigError(f"{name} is {port}; it must be from 0 to 65535")
        if self.port and self.port == self.grpc_port:
            raise ConfigError(f"port and grpc_port are both {self.port}; HTTP and gRPC take one each")
