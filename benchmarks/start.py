"""CPU time of `import nograd` and `nograd --help`, and what they leave in sys.modules."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

from benchmarks.common import in_turn, report, spread

ROUNDS, GOAL_S = 15, 0.15
CHECK = "import sys; {}; assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy modules were imported'"
CASES = {
    "python -c pass": ["-c", "pass"],
    "import nograd": ["-c", CHECK.format("import nograd")],
    "nograd --help": ["-m", "nograd", "--help"],
}


def cpu_s(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    for arguments in CASES.values():
        cpu_s(arguments)  # byte code is compiled once
    times = in_turn(ROUNDS, **{name: lambda a=arguments: cpu_s(a) for name, arguments in CASES.items()})
    table = [["command", "CPU s"], *([name, spread(found)] for name, found in times.items())]
    met = all(median(times[name]) < GOAL_S for name in ("import nograd", "nograd --help"))
    report("start", table, times, goal=f"under {GOAL_S} s CPU each, without torch", met=met)


if __name__ == "__main__":
    main()
