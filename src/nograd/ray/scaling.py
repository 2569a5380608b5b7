"""Ray Serve's question how many replicas there should be, answered from what they tell of their batchers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nograd.ray.replicas import Load, wanted

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

__all__ = ["BACKLOG", "BUSY", "Backlog", "scaling"]

BACKLOG, BUSY = "backlog_s", "busy"
"""Of what a replica tells."""

TOLD_EVERY_S = 1.0
LOOK_BACK_S = 5.0
UP_AFTER_S = 5.0
"""Seconds of wanting more until there are more: a burst is over by then, and starting a replica takes as long."""

DOWN_AFTER_S = 60.0


class Backlog:
    """A policy of Ray Serve, which itself sees to delays and bounds.

    Args:
        goal_s: seconds of backlog that are well.
    """

    def __init__(self, goal_s: float) -> None:
        self._goal_s = goal_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return how many replicas there should be, and nothing to remember."""
        told = context.aggregated_metrics or {}
        backlogs, busy = told.get(BACKLOG, {}), told.get(BUSY, {})
        loads = [Load(backlogs[each], busy.get(each, 1.0)) for each in context.running_replicas if each in backlogs]
        target = context.target_num_replicas
        if not loads:
            return target, {}
        found = wanted(loads, self._goal_s)
        return (
            found if len(loads) >= target else min(found, target)
        ), {}  # where some are still coming, see first what they change


def scaling(least: int, most: int, goal_s: float) -> dict[str, Any]:
    """Return the autoscaling of a deployment, as Ray Serve takes it.

    Args:
        least: replicas.
        most: replicas.
        goal_s: seconds of backlog that are well.
    """
    return {
        "min_replicas": least,
        "initial_replicas": least,
        "max_replicas": most,
        "metrics_interval_s": TOLD_EVERY_S,
        "look_back_period_s": LOOK_BACK_S,
        "upscale_delay_s": UP_AFTER_S,
        "downscale_delay_s": DOWN_AFTER_S,
        "policy": {"policy_function": f"{__name__}:{Backlog.__name__}", "policy_kwargs": {"goal_s": goal_s}},
    }
