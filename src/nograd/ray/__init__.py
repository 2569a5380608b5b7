"""On a Ray cluster: the same predictor, many times (extra: ray; ADR 17 and 18).

    where.py     which cluster; session.py: joined, or started here and ended
    actors.py    what an actor is made of: the model's name, cores, environment; and the predictor that it holds
    data.py      map_batches: Ray Data; contract.py: one contract of `postprocess` for all its actors
    crew.py      windows of `nograd predict`, run by actors, in order; command.py: behind its options
    serving.py   the server as an application of Ray Serve (ADR 18); replica.py: what a replica is
    replicas.py  how many replicas there are to be; scaling.py: Ray Serve's question, answered with it
    deploying.py the application on a cluster, as one command has it; serve_command.py: behind `nograd serve --ray`

Ray places, restarts and moves bytes; what is batched, and what is written, is decided here as without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nograd.ray.data import map_batches

__all__ = ["map_batches"]


def __getattr__(name: str) -> Any:
    if name != "map_batches":
        raise AttributeError(f"module 'nograd.ray' has no attribute {name!r}")
    from nograd.ray.data import map_batches  # Ray Data brings pandas along: serving has no use for it

    return map_batches
