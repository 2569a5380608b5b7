"""The extension model_configuration: a model's settings in the JSON form of Triton's ModelConfig. Pure.

Specification: Triton, docs/protocol/extension_model_configuration.md; triton-inference-server/common, model_config.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nograd.backends import Backend
from nograd.core.tensors import Signature, TensorSpec
from nograd.server.protocol.datatypes import datatype
from nograd.server.protocol.request import DEFAULT_PRIORITY, PRIORITY_LEVELS
from nograd.server.settings.definition import ServeConfig

__all__ = ["configuration"]


def configuration(
    metadata: dict[str, Any],
    version: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    backend: Backend,
    max_batch_size: int,
    limits: ServeConfig,
    is_cached: bool,
) -> dict[str, Any]:
    """Return a model's configuration.

    Args:
        metadata: the protocol's metadata of the model; name and platform are used.
        version: the served version.
        inputs: the clients' inputs.
        outputs: the model's outputs.
        backend: backend of the model.
        max_batch_size: maximum rows per run; a longer request runs in parts.
        limits: limits of the server.
        is_cached: whether answers are cached.
    """
    signature = backend.signature
    found: dict[str, Any] = {
        "name": metadata["name"],
        "platform": metadata["platform"],
        "backend": backend.name,
        "version_policy": {"specific": {"versions": [int(version)]}} if version.isdecimal() else {"all": {}},
        "max_batch_size": max_batch_size,
        "input": [{**_tensor(spec), "format": "FORMAT_NONE", "optional": spec.default is not None} for spec in inputs],
        "output": [_tensor(spec) for spec in outputs],
        "instance_group": [_instances(metadata["name"], backend.device, backend.lanes)],
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": is_cached},
        "parameters": {
            "batching": {"string_value": signature.batching},
            "batching_reason": {"string_value": signature.reason},
            **({"size_limits": {"string_value": sizes}} if (sizes := signature.describe_limits()) else {}),
            **_independence(signature),
        },
    }
    if signature.batching != "alone":
        found["dynamic_batching"] = _batching(limits)
    return found


def _independence(signature: Signature) -> dict[str, Any]:
    """Return the measured influence of a batch's rows on each other, as entries of the parameters."""
    found = signature.independence
    if found is None:
        return {"independence": {"string_value": "not measured"}}
    names = ("bound", "tolerance", "size_effect")
    figures = {f"independence_{name}": {"string_value": f"{getattr(found, name):.3g}"} for name in names}
    return {"independence": {"string_value": str(found)}, **figures}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """Return the configuration of a tensor, without the row dimension."""
    kind = datatype(spec)
    return {
        "name": spec.name,
        "data_type": f"TYPE_{'STRING' if kind == 'BYTES' else kind}",
        "dims": [size if isinstance(size, int) else -1 for size in spec.shape],
    }


def _instances(name: str, device: str, lanes: int) -> dict[str, Any]:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return {"name": name, "kind": "KIND_CPU", "count": lanes, "gpus": []}
    return {"name": name, "kind": "KIND_GPU", "count": lanes, "gpus": [int(index or 0)]}


def _batching(limits: ServeConfig) -> dict[str, Any]:
    return {
        "preferred_batch_size": [],
        "max_queue_delay_microseconds": round(limits.max_wait_ms * 1000),
        "preserve_ordering": False,
        "priority_levels": PRIORITY_LEVELS,
        "default_priority_level": DEFAULT_PRIORITY,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": round(limits.timeout_s * 1e6),
            "allow_timeout_override": True,
            "max_queue_size": limits.max_queue_rows,
        },
    }
