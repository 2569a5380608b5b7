"""`nograd predict --ray` behind its options."""

from __future__ import annotations

import os

from nograd.jobs.command import predict_command
from nograd.jobs.run import Job
from nograd.ray.actors import recipe_of
from nograd.ray.address import address_for

__all__ = ["predict_on_ray"]


def predict_on_ray(job: Job, *, device: str, trusted: bool, actors: int | None, address: str) -> int:
    """Predict as `jobs.command.predict_command` does, with the windows run by actors; return the exit code.

    Args:
        job: what to do.
        device: `auto`, or a torch device.
        trusted: for models that hold or name code.
        actors: how many; None: as many as the cluster has room for.
        address: of the cluster; see `session.cluster`.

    Raises:
        ConfigError: no cluster answers, or nothing was begun.
        JobError: it stopped; what was done is kept.
    """
    address = address_for(address, os.environ)
    from nograd.ray.actor_pool import crew_of

    recipe = recipe_of(job.model, device=device, trusted=trusted, accept_coupled_rows=job.accept_coupled_rows)
    with crew_of(recipe, actors=actors, address=address) as over:
        return predict_command(job, device=device, trusted=trusted, over=over)
