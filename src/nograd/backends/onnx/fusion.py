"""Fusion of a transformer's attention, layer norms and embeddings into single operators of ONNX Runtime."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

__all__ = ["fuse_attention"]


def fuse_attention(path: Path, *, model_type: str, num_heads: int, hidden_size: int) -> Any:
    """Return the graph after ONNX Runtime's transformer optimizer, as an `onnx.ModelProto`.

    Args:
        path: the graph; its attention must be unfused (matrix product, softmax, matrix product).
        model_type: transformers' name of the architecture; an unknown one is treated as BERT, whose pattern most encoders
            share.
        num_heads: attention heads; 0: found in the graph.
        hidden_size: width of the hidden states; 0: found in the graph.
    """
    from onnxruntime.transformers import optimizer

    kind = model_type if model_type in optimizer.MODEL_TYPES else "bert"
    loud = [
        logging.getLogger(name)
        for name in logging.root.manager.loggerDict
        if name.startswith(("fusion", "onnx_model", "shape_"))
    ]
    loud += [logging.getLogger(name) for name in ("onnxruntime.transformers.optimizer", "onnx_model", "fusion_base")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.CRITICAL)
    try:
        found = optimizer.optimize_model(str(path), model_type=kind, num_heads=num_heads, hidden_size=hidden_size, opt_level=0)
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
    return found.model
