"""bundle.json: what a bundle is and how it runs; structs that read strictly what they write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from nograd.backends.kinds import FLOAT_PRECISIONS
from nograd.backends.registry import find_kind, why_unknown
from nograd.core.cost import CostCurve
from nograd.core.manifest import Manifest
from nograd.core.tensors import Signature, TensorSpec
from nograd.errors import ConfigError, ModelLoadError
from nograd.runtime.machine import Machine

if TYPE_CHECKING:
    from nograd.backends.kinds import Kind

__all__ = [
    "MANIFEST",
    "Curve",
    "Described",
    "FactoryStep",
    "ImportedStep",
    "Settings",
    "Step",
    "TokenizeStep",
    "dumps",
    "loads",
]

MANIFEST = "bundle.json"

FORMAT = 1

_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured seconds of one run by its size."""

    sizes: tuple[int, ...]
    """Increasing."""

    seconds: tuple[float, ...]
    """Medians, as they were measured: they need not increase."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    """The range that holds the true median with 95 %."""

    unit: Literal["rows", "tokens"] = "rows"
    """What `sizes` counts: rows, or padded tokens (rows x longest row)."""

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.seconds) == len(self.low) == len(self.high):
            raise ConfigError(f"a curve has {len(self.sizes)} sizes; it needs as many seconds, and as many of `low` and `high`")
        self.cost()

    def cost(self) -> CostCurve:
        """Return the closest curve that never decreases."""
        return CostCurve.fit({size: [time_s] for size, time_s in zip(self.sizes, self.seconds, strict=True)}, unit=self.unit)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bundle's model runs, and what is known of it."""

    name: str
    """The model's, in the URL of a server unless told otherwise."""

    backend: str
    precision: str = "float32"
    lanes: int = 1
    num_threads: int = 1
    max_batch_size: int = 32
    goal: str = ""
    """What it was chosen for, such as `slo=20ms`."""

    curve: Curve | None = None
    parity: dict[str, Any] | None = None
    """`ParityReport.to_json()`: the answers against eager's."""

    metric: float | None = None
    """What the user's own function gave; higher is better."""

    confirmed: bool | None = None
    """Whether the curve held behind a real batcher under load; None: that was not tried."""

    fingerprint: str = ""
    """Of the model that it was made from."""

    machine: Machine | None = None
    """Where it was measured; None becomes the machine that writes."""

    when: str = ""
    """UTC, `2026-11-25 19:30`; empty becomes the time of writing."""

    nograd: str = ""
    """Version that wrote it."""

    distribution: str | msgspec.UnsetType = msgspec.UNSET
    """The package that the backend comes from; unset for nograd's own, whose bundles older versions can then read."""

    def __post_init__(self) -> None:
        kind = find_kind(self.backend)
        if kind is None:
            raise ConfigError(why_unknown(self.backend))
        for name in ("lanes", "num_threads", "max_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if kind.runs_module and self.precision not in FLOAT_PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; {self.backend} runs {', '.join(FLOAT_PRECISIONS)}")
        if kind.runs_module and not kind.has_lanes and self.lanes > 1:
            raise ConfigError(f"lanes is {self.lanes}; {self.backend} runs one batch at a time")

    @property
    def kind(self) -> Kind:
        """The kind of its backend."""
        found = find_kind(self.backend)
        if found is None:  # the package was there when the settings were read
            raise ConfigError(why_unknown(self.backend, self.distribution or ""))
        return found

    @property
    def layout(self) -> str:
        """Lanes and threads in words."""
        lanes, threads = self.lanes, self.num_threads
        return f"{lanes} lane{'s' * (lanes > 1)} of {threads} thread{'s' * (threads > 1)}"


class TokenizeStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tokenize"):
    """`nograd.text.Tokenize` over the bundle's `tokenizer.json`."""

    names: tuple[str, ...]
    max_tokens: int | None


class ImportedStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="import"):
    """A callable by module and name; the user's own code, which is not in the bundle."""

    name: str
    """`package.module:qualified.name`."""

    is_instance: bool = False
    """Whether the callable is what the named class gives when it is called without arguments."""


class FactoryStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="factory"):
    """What the Predictor has that the model's factory returns."""


Step = TokenizeStep | ImportedStep | FactoryStep


class Described(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of bundle.json but its format."""

    settings: Settings
    signature: Signature
    factory: str = ""
    """`package.module:function` that makes the module; empty: the bundle holds all of the model."""

    preprocess: Step | None = None
    postprocess: Step | None = None
    item: TensorSpec | None = None
    example: Any = None
    """An item as plain JSON; None: it lies in `example.safetensors`, or there is none."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    settings: Settings
    signature: msgspec.Raw
    factory: str = ""
    preprocess: Step | None = None
    postprocess: Step | None = None
    item: TensorSpec | None = None
    example: Any = None


class _Runs(msgspec.Struct, frozen=True):
    """What bundle.json says of the backend; read before the rest, because an unknown backend cannot check its settings."""

    backend: str = ""
    distribution: str = ""


class _Head(msgspec.Struct):
    format: int
    settings: _Runs = _Runs()


def dumps(described: Described) -> bytes:
    """Return the content of bundle.json, to be read by people, too."""
    signature = msgspec.Raw(Manifest(described.signature, None).dumps().encode())
    fields = {name: getattr(described, name) for name in described.__struct_fields__}
    plain = msgspec.json.encode(_File(**{**fields, "format": FORMAT, "signature": signature}))
    return msgspec.json.format(plain, indent=1) + b"\n"


def loads(text: bytes, where: str) -> Described:
    """Return what `dumps` wrote.

    Raises:
        ModelLoadError: it is not that, or of a newer format.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format > FORMAT:
            raise ModelLoadError(f"{where} has format {head.format}; this nograd reads up to {FORMAT}: update nograd")
        if _DISTRIBUTION.fullmatch(head.settings.distribution) and find_kind(head.settings.backend) is None:
            raise ModelLoadError(f"{where}: {why_unknown(head.settings.backend, head.settings.distribution)}")
        plain = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{where}: {MANIFEST} cannot be read: {error}") from error
    fields = {name: getattr(plain, name) for name in Described.__struct_fields__}
    return Described(**{**fields, "signature": Manifest.loads(bytes(plain.signature)).signature})
