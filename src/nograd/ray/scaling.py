"""Ray Serve's autoscaling policy: decide the number of replicas from their batchers' reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nograd.ray.replicas import ReplicaLoad, wanted_replicas

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

__all__ = ["BACKLOG", "BUSY", "Backlog", "scaling"]

BACKLOG, BUSY = "backlog_s", "busy"
"""Names of the reported metrics."""

REPORT_EVERY_S = 1.0
LOOK_BACK_S = 5.0
UP_AFTER_S = 5.0
"""Seconds until more replicas are started: a burst is over by then, and starting a replica takes as long."""

DOWN_AFTER_S = 60.0


class Backlog:
    """An autoscaling policy of Ray Serve, which itself applies delays and bounds.

    Args:
        goal_s: acceptable seconds of backlog.
    """

    def __init__(self, goal_s: float) -> None:
        self._goal_s = goal_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas that there should be, and an empty state."""
        metrics = context.aggregated_metrics or {}
        backlogs, busy = metrics.get(BACKLOG, {}), metrics.get(BUSY, {})
        loads = [ReplicaLoad(backlogs[each], busy.get(each, 1.0)) for each in context.running_replicas if each in backlogs]
        target = context.target_num_replicas
        if not loads:
            return target, {}
        found = wanted_replicas(loads, self._goal_s)
        return (
            found if len(loads) >= target else min(found, target)
        ), {}  # while some replicas are still starting, wait for their effect


def scaling(least: int, most: int, goal_s: float) -> dict[str, Any]:
    """Return the autoscaling settings of a deployment, in Ray Serve's form.

    Args:
        least: minimum number of replicas.
        most: maximum number of replicas.
        goal_s: acceptable seconds of backlog.
    """
    return {
        "min_replicas": least,
        "initial_replicas": least,
        "max_replicas": most,
        "metrics_interval_s": REPORT_EVERY_S,
        "look_back_period_s": LOOK_BACK_S,
        "upscale_delay_s": UP_AFTER_S,
        "downscale_delay_s": DOWN_AFTER_S,
        "policy": {"policy_function": f"{__name__}:{Backlog.__name__}", "policy_kwargs": {"goal_s": goal_s}},
    }
