"""What `nograd check` says of real trained models: no error and no warning is expected, for none of them has a fault.

    python -m benchmarks.checks [--deep] [case ...]

MiniLM by its name, and the models of `benchmarks.zoo` that can be installed here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks.common import report
from benchmarks.zoo import CASES
from nograd import Predictor, check
from nograd.checks import Report

EXPECTED: dict[str, set[str]] = {}
"""Case -> checks that are right to warn of it."""


def of_case(name: str, *, deep: bool) -> Report:
    """Check one case of the zoo on its own sample."""
    case = CASES[name]()
    return check(Predictor(case.model, sample=case.sample), deep=deep)


def checked(names: Sequence[str], *, deep: bool) -> dict[str, Report | str]:
    """Return a report for each model, or why there is none."""
    runs: dict[str, Callable[[], Report]] = {"minilm": lambda: check("minilm", deep=deep)}
    runs |= {name: (lambda name=name: of_case(name, deep=deep)) for name in CASES}  # type: ignore[misc]
    found: dict[str, Report | str] = {}
    for name in names or runs:
        try:
            found[name] = runs[name]()
        except (Exception, SystemExit) as error:  # noqa: BLE001  a model that cannot be had here is a line of the table
            found[name] = f"{type(error).__name__}: {error}"
        sys.stdout.write(f"== {name}\n{found[name]}\n")
    return found


def main() -> None:
    """Print every report, then the table."""
    deep = "--deep" in sys.argv
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    found = checked(names, deep=deep)
    rows = [("model", "s", "error", "warning", "info", "skipped", "passed", "said")]
    false = 0
    for name, each in found.items():
        if isinstance(each, str):
            rows.append((name, "-", "-", "-", "-", "-", "-", each[:60]))
            continue
        faults = [finding.check for finding in each.of("error", "warning")]
        false += len(set(faults) - EXPECTED.get(name, set()))
        told = ", ".join([*faults, *(f"({finding.check})" for finding in each.of("info"))])
        rows.append((name, f"{each.spent_s:.1f}", *map(str, each.counts.values()), told))  # type: ignore[arg-type]
    data = {name: each if isinstance(each, str) else each.to_json() for name, each in found.items()}
    report("checks", rows, data, goal="no error and no warning on sound models", met=false == 0)


if __name__ == "__main__":
    main()
