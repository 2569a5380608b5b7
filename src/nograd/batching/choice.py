"""Choice of the batch policy for a model."""

from __future__ import annotations

from nograd.batching.lengths import LengthPolicy
from nograd.batching.policy import BatchPolicy, DeadlinePolicy
from nograd.core.cost import CostCurve
from nograd.core.tensors import Signature
from nograd.errors import ConfigError

__all__ = ["policy_for"]


def policy_for(
    signature: Signature,
    *,
    max_batch_size: int = 32,
    max_wait_ms: float = 0.0,
    max_batch_tokens: int | None = None,
    cost: CostCurve | None = None,
) -> BatchPolicy:
    """Return a policy for a model: `LengthPolicy` if rows vary in length and may share batches, otherwise `DeadlinePolicy`.

    Args:
        signature: signature of the model.
        max_batch_size: maximum rows per run.
        max_wait_ms: maximum time to wait for a batch to fill, in milliseconds.
        max_batch_tokens: maximum padded elements per run.
        cost: seconds by rows, or by padded elements if lengths vary.

    Raises:
        ConfigError: a limit is out of its range, or the unit of the curve does not match the model.
    """
    varies = signature.lengths and signature.batching != "alone"
    if cost is not None and signature.batching != "alone" and cost.unit != ("tokens" if varies else "rows"):
        rows = (
            "differ in length: it needs one over padded elements" if varies else "are all of one length: it needs one over rows"
        )
        raise ConfigError(f"the cost curve counts {cost.unit}, and this model's rows {rows} (see measure_cost)")
    if varies:
        equal = signature.batching == "equal_lengths"
        return LengthPolicy(max_batch_size, max_wait_ms, cost=cost, max_batch_tokens=max_batch_tokens, equal=equal)
    cost = cost if cost is not None and cost.unit == "rows" else None  # rows run alone: the cost depends on the length
    return DeadlinePolicy(max_batch_size, max_wait_ms, cost=cost, alone=signature.batching == "alone")
