"""Cheapest partition of a sorted queue into runs, for rows of different lengths. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import inf

__all__ = ["cheapest_groups"]


def cheapest_groups(
    lengths: Sequence[int], rows: Sequence[int], *, overhead: float, max_rows: int, max_tokens: float = inf
) -> list[tuple[int, int]]:
    """Return the cheapest partition into contiguous groups, if a run costs `overhead + rows * longest`.

    Dynamic programming over the ends of groups, O(requests x max_rows) (Fang et al., TurboTransformers, PPoPP 2021, sec. 4.3).

    Args:
        lengths: row length of each request, ascending.
        rows: number of rows of each request.
        overhead: fixed cost of a run, in padded elements.
        max_rows: maximum rows per run; a larger request runs alone.
        max_tokens: maximum padded elements per run; a larger request runs alone.

    Returns:
        Start and end of each group, in order.
    """
    totals = [0, *accumulate(rows)]
    best, begins = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        longest, until = lengths[end - 1], totals[end]
        start = end - 1
        cheapest, begin = best[start] + overhead + (until - totals[start]) * longest, start
        room = min(max_rows, max_tokens // longest)
        while start > 0 and until - totals[start - 1] <= room:
            start -= 1
            cost = best[start] + overhead + (until - totals[start]) * longest
            if cost < cheapest:
                cheapest, begin = cost, start
        best.append(cheapest)
        begins.append(begin)
    groups: list[tuple[int, int]] = []
    end = len(lengths)
    while end:
        groups.append((begins[end], end))
        end = begins[end]
    return groups[::-1]
