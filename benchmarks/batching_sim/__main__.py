"""Policies against loads: the share of requests on time lost to the best policy of each point, on 320 points.

`python -m benchmarks.batching_sim` takes some five minutes; `--quick` plays every fourth point.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from statistics import mean

from benchmarks.batching_sim.peers import PEERS
from benchmarks.batching_sim.traffic import Point, noisy, points, requests
from benchmarks.common import report
from nograd import DeadlinePolicy
from nograd.batching.simulation import simulate

OURS = "nograd"
REQUESTS = 3000
GOALS = (0.005, 0.05)


def play(point: Point) -> dict[str, float]:
    """Return each policy's goodput at one point."""
    found: dict[str, float] = {}
    traffic = requests(point, REQUESTS)
    policy = DeadlinePolicy(point.curve.max_rows, cost=point.curve.measured())
    found[OURS] = simulate(policy, traffic, noisy(point.curve, point.seed)).goodput(traffic)
    for peer in PEERS:
        traffic = requests(point, REQUESTS)
        rule = peer(point.curve, point.goal_s)
        found[peer.name] = simulate(rule, traffic, noisy(point.curve, point.seed)).goodput(traffic)
    return found


def main() -> None:
    grid = list(points())[:: 4 if "--quick" in sys.argv else 1]
    with ProcessPoolExecutor(2) as pool:
        goodputs = list(pool.map(play, grid, chunksize=4))
    slices = {
        "all": grid,
        "one goal": [point for point in grid if len(point.goals) == 1],
        "mixed goals": [point for point in grid if len(point.goals) > 1],
        "load <= 0.7": [point for point in grid if point.load <= 0.7],
        "load >= 0.9": [point for point in grid if point.load >= 0.9],
    }
    table = [["mean / worst loss %, points beyond 2 %", *(f"{name} ({len(chosen)})" for name, chosen in slices.items())]]
    worst_of: dict[str, tuple[float, float]] = {}
    for name in goodputs[0]:
        losses = {point: max(found.values()) - found[name] for point, found in zip(grid, goodputs, strict=True)}
        worst_of[name] = (mean(losses.values()), max(losses.values()))
        cells = []
        for chosen in slices.values():
            found = [losses[point] for point in chosen]
            cells.append(f"{100 * mean(found):.2f} / {100 * max(found):.1f}, {sum(loss > 0.02 for loss in found)}")
        table.append([name, *cells])
    keys = ("curve", "goals", "bursts", "load")
    data = [
        {**dict(zip(keys, (point.curve.name, point.goals, point.bursts, point.load), strict=True)), "goodput": found}
        for point, found in zip(grid, goodputs, strict=True)
    ]
    met = all(loss <= goal for loss, goal in zip(worst_of[OURS], GOALS, strict=True))
    report("batching_sim", table, data, goal="nograd loses at most 0.5 % on average and 5 % at worst", met=met)


if __name__ == "__main__":
    main()
