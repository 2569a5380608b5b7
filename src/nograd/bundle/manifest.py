"""bundle.json: the description of a bundle, as structs that reject unknown fields when they are read."""

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
    "BundleDescription",
    "BundleSettings",
    "Curve",
    "FactoryStep",
    "ImportedStep",
    "Step",
    "TokenizeStep",
    "dumps",
    "loads",
]

MANIFEST = "bundle.json"

FORMAT = 1

_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured seconds per run for each run size."""

    sizes: tuple[int, ...]
    """Run sizes, increasing."""

    seconds: tuple[float, ...]
    """Measured medians; they may decrease with the size."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    """95 % confidence interval of the true median."""

    unit: Literal["rows", "tokens"] = "rows"
    """Unit of `sizes`: rows, or padded tokens (rows x longest row)."""

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.seconds) == len(self.low) == len(self.high):
            raise ConfigError(f"a curve has {len(self.sizes)} sizes; it needs as many seconds, and as many of `low` and `high`")
        self.cost()

    def cost(self) -> CostCurve:
        """Return the closest curve that never decreases."""
        return CostCurve.fit({size: [time_s] for size, time_s in zip(self.sizes, self.seconds, strict=True)}, unit=self.unit)


class BundleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bundle's model runs, and what was measured."""

    name: str
    """Model name; also its name in a server's URL by default."""

    backend: str
    precision: str = "float32"
    lanes: int = 1
    num_threads: int = 1
    max_batch_size: int = 32
    goal: str = ""
    """Tuning goal, such as `slo=20ms`."""

    curve: Curve | None = None
    parity: dict[str, Any] | None = None
    """Comparison with the eager model (`ParityReport.to_json()`)."""

    metric: float | None = None
    """Result of the user's own metric function; higher is better."""

    confirmed: bool | None = None
    """Whether the cost curve was correct in a real batcher under load; None: not tested."""

    fingerprint: str = ""
    """Fingerprint of the source model."""

    machine: Machine | None = None
    """Machine that measured; None becomes the machine that writes the bundle."""

    when: str = ""
    """UTC, `2026-11-25 19:30`; empty becomes the time of writing."""

    nograd: str = ""
    """Version of nograd that wrote the bundle."""

    distribution: str | msgspec.UnsetType = msgspec.UNSET
    """Package that provides the backend. Unset for built-in backends, so that older versions can read their bundles."""

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
        """Kind of the backend."""
        found = find_kind(self.backend)
        if found is None:  # the package was installed when the settings were read
            raise ConfigError(why_unknown(self.backend, self.distribution or ""))
        return found

    @property
    def layout(self) -> str:
        """Lanes and threads as text."""
        lanes, threads = self.lanes, self.num_threads
        return f"{lanes} lane{'s' * (lanes > 1)} of {threads} thread{'s' * (threads > 1)}"


class TokenizeStep(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="tokenize"
):
    """`nograd.text.Tokenize` with the bundle's `tokenizer.json`."""

    names: tuple[str, ...]
    max_tokens: int | None
    prompt: str = ""
    truncation_side: str = "right"


class ImportedStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="import"):
    """A callable of the user's own code, referenced by module and name; its code is not in the bundle."""

    name: str
    """`package.module:qualified.name`."""

    is_instance: bool = False
    """Whether the callable is an instance of the named class, created without arguments."""


class FactoryStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="factory"):
    """The step of the Predictor that the model's factory returns."""


Step = TokenizeStep | ImportedStep | FactoryStep


class BundleDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of bundle.json without its format version."""

    settings: BundleSettings
    signature: Signature
    factory: str = ""
    """`package.module:function` that creates the module; empty: the bundle contains the whole model."""

    preprocess: Step | None = None
    postprocess: Step | None = None
    item: TensorSpec | None = None
    example: Any = None
    """An item as plain JSON; None: it is in `example.safetensors`, or there is no example."""


class _BundleFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    settings: BundleSettings
    signature: msgspec.Raw
    factory: str = ""
    preprocess: Step | None = None
    postprocess: Step | None = None
    item: TensorSpec | None = None
    example: Any = None


class _BackendName(msgspec.Struct, frozen=True):
    """The backend's name and package. They are read first, because the settings of an unknown backend cannot be checked."""

    backend: str = ""
    distribution: str = ""


class _Head(msgspec.Struct):
    format: int
    settings: _BackendName = _BackendName()


def dumps(described: BundleDescription) -> bytes:
    """Return the content of bundle.json, indented for readers."""
    signature = msgspec.Raw(Manifest(described.signature, None).dumps().encode())
    fields = {name: getattr(described, name) for name in described.__struct_fields__}
    plain = msgspec.json.encode(_BundleFile(**{**fields, "format": FORMAT, "signature": signature}))
    return msgspec.json.format(plain, indent=1) + b"\n"


def loads(text: bytes, where: str) -> BundleDescription:
    """Parse bundle.json.

    Raises:
        ModelLoadError: the content is malformed, has a newer format, or needs a backend that is not installed.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format > FORMAT:
            raise ModelLoadError(f"{where} has format {head.format}; this nograd reads up to {FORMAT}: update nograd")
        if _DISTRIBUTION.fullmatch(head.settings.distribution) and find_kind(head.settings.backend) is None:
            raise ModelLoadError(f"{where}: {why_unknown(head.settings.backend, head.settings.distribution)}")
        plain = msgspec.json.decode(text, type=_BundleFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{where}: {MANIFEST} cannot be read: {error}") from error
    fields = {name: getattr(plain, name) for name in BundleDescription.__struct_fields__}
    return BundleDescription(**{**fields, "signature": Manifest.loads(bytes(plain.signature)).signature})
