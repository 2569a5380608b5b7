"""Merging of several processes' metrics into one text. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping

__all__ = ["merged", "of_workers"]


def merged(label: str, texts: Mapping[int, str] | Mapping[str, str]) -> str:
    """Merge Prometheus texts: each sample gets an additional label, and the samples of a metric are grouped.

    Args:
        label: name of the label.
        texts: texts by value of the label.

    >>> print(merged("worker", {0: '# TYPE a counter\\na{model="m"} 1\\n', 1: '# TYPE a counter\\na{model="m"} 2\\n'}), end="")
    # TYPE a counter
    a{worker="0",model="m"} 1
    a{worker="1",model="m"} 2
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for value, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                if line not in heads.setdefault(family, []):
                    heads[family].append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, f'{label}="{value}"'))
    lines = [line for family in heads | samples for line in (*heads.get(family, ()), *samples.get(family, ()))]
    return "".join(f"{line}\n" for line in lines)


def _labelled(sample: str, label: str) -> str:
    """Add a label to a sample, whose name ends at the first brace or space."""
    name, brace, labels = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label},{labels}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"


def of_workers(count: int, up: Container[int], restarts: Mapping[int, int]) -> str:
    """Return the metrics of the workers themselves.

    Args:
        count: number of workers.
        up: numbers of responding workers.
        restarts: number of restarts by worker; 0 if missing.
    """
    families = (
        ("nograd_worker_up", "gauge", "1 when the worker answers.", [int(at in up) for at in range(count)]),
        (
            "nograd_worker_restarts_total",
            "counter",
            "Times it had ended and was started again.",
            [restarts.get(at, 0) for at in range(count)],
        ),
    )
    lines: list[str] = []
    for name, kind, text, values in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{worker="{worker}"}} {value}' for worker, value in enumerate(values)]
    return "".join(f"{line}\n" for line in lines)
