"""`nograd predict --ray` after option parsing."""

from __future__ import annotations

import os

from nograd.datasets.command import predict_command
from nograd.datasets.run import PredictJob
from nograd.ray.actors import recipe_of
from nograd.ray.address import address_for

__all__ = ["predict_on_ray"]


def predict_on_ray(job: PredictJob, *, device: str, trusted: bool, actors: int | None, address: str) -> int:
    """Predict as `jobs.command.predict_command` does, with actors that run the windows; return the exit code.

    Args:
        job: the job to run.
        device: `auto`, or a torch device.
        trusted: for models that contain or name code.
        actors: number of actors; None: as many as the cluster has room for.
        address: address of the cluster; see `session.cluster`.

    Raises:
        ConfigError: no cluster answers, or the run was not started.
        JobError: the run stopped; finished work is saved.
    """
    address = address_for(address, os.environ)
    from nograd.ray.actor_pool import actor_pool_of

    recipe = recipe_of(job.model, device=device, trusted=trusted, accept_coupled_rows=job.accept_coupled_rows)
    with actor_pool_of(recipe, actors=actors, address=address) as over:
        return predict_command(job, device=device, trusted=trusted, over=over)
