"""The table of all cases and what eager float32 reaches on them."""

from __future__ import annotations

import sys

from benchmarks.zoo import CASES, run_eager

for name, make in CASES.items():
    case = make()
    parameters = sum(parameter.numel() for parameter in case.model.parameters())
    accuracy = case.accuracy(run_eager(case))
    sys.stdout.write(f"{name:20} {parameters:>10,} parameters {case.num_rows:>5} rows  {accuracy:.3f} ({case.reference:.3f})\n")
