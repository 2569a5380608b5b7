"""torch's table of ONNX operators, built once in a process.

`torch.onnx.export(dynamo=True)` builds the same table in each call: 1.5 s of processor time, and a small model's export takes
0.2 s more (2026-12-01, torch 2.13). Nothing changes a table after that, because nograd passes no `custom_translation_table`.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

MODULE = "torch.onnx._internal.exporter._registration"


def keep_table() -> None:
    """Let the exporter keep its table, if the exporter was imported."""
    registry = getattr(sys.modules.get(MODULE), "ONNXRegistry", None)
    if registry is not None and not isinstance(vars(registry)["from_torchlib"], staticmethod):
        registry.from_torchlib = staticmethod(cache(registry.from_torchlib))


def warm_up_exporter(folder: Path) -> None:
    """Export a model, so that this process, and those that it forks, have imported the exporter and built its table."""
    import torch
    import torch.onnx._internal.exporter._registration

    from nograd import export_to_onnx

    keep_table()
    export_to_onnx(torch.nn.Linear(4, 3), torch.ones(2, 4), folder / "model.onnx")
