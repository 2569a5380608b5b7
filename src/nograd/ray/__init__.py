"""Run a predictor on a Ray cluster, in many processes (extra: ray; ADR 17 and 18).

    address.py      address of the cluster; session.py: join a cluster, or start and stop a local one
    actors.py       the recipe of an actor: the model's name, cores, environment; and the predictor in it
    data.py         map_batches: Ray Data; contract.py: one contract of `postprocess` for all its actors
    actor_pool.py   windows of `nograd predict`, run by actors in order; command.py: `nograd predict --ray`
    serving.py      the server as an application of Ray Serve (ADR 18); replica.py: one replica of it
    replicas.py     the number of replicas; scaling.py: Ray Serve's autoscaling policy
    deploying.py    the deployment of one command; serve_command.py: `nograd serve --ray`

Ray places and restarts processes, and moves bytes. nograd decides batching and output, as it does without Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nograd.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from nograd.ray.data import map_batches

__all__ = ["map_batches"]

# Ray Data imports pandas, which serving does not need
__getattr__, __dir__ = lazy_names(__name__, {"map_batches": "data"})
