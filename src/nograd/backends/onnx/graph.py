"""Reading, finishing and writing ONNX graphs: names, manifest, large weights. Only exporting needs the package `onnx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nograd.core.manifest import KEY, Manifest, graph_outputs
from nograd.errors import MissingExtraError

try:
    import onnx
except ImportError:
    raise MissingExtraError("onnx", "onnx") from None

__all__ = ["MAX_INLINE_BYTES", "finish", "load_graph", "save_graph", "save_mapped", "write_manifest"]

MAX_INLINE_BYTES = 1 << 30
"""Larger weights are written to a separate file; a protobuf message has at most 2 GiB."""

MIN_MAPPED_BYTES = 1024
"""Smaller weights stay in the graph: shape inference needs them there, and a page is 4 KiB."""


def load_graph(path: Path) -> onnx.ModelProto:
    """Return a graph with its weights."""
    return onnx.load(str(path))


def finish(model: onnx.ModelProto, inputs: Mapping[str, str], outputs: Mapping[str, str], manifest: Manifest) -> None:
    """Give inputs and outputs the signature's names (see `graph_outputs`), and write the manifest into the metadata.

    Args:
        model: changed in place.
        inputs: name in the graph -> name in the signature; `outputs` likewise.
        manifest: manifest of the file.
    """
    in_graph = graph_outputs(manifest.signature)
    wanted = {**inputs, **{name: in_graph.get(named, named) for name, named in outputs.items()}}
    taken = set(wanted.values()) - set(wanted)
    _rename(model.graph, {**{name: f"{name}__inner" for name in taken}, **wanted})
    _set_manifest(model, manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of a file; weights are not rewritten."""
    model = onnx.load(str(path), load_external_data=False)
    _set_manifest(model, manifest)
    onnx.save(model, str(path))


def _set_manifest(model: onnx.ModelProto, manifest: Manifest) -> None:
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, manifest.dumps()


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values wherever they occur. Exporters name inner values after modules, so an output called `embedding` may have
    the name of an inner value.
    """
    for node in graph.node:
        _rename_all(node.input, names)
        _rename_all(node.output, names)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, names)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _rename_all(values: Any, names: Mapping[str, str]) -> None:
    for index, value in enumerate(values):
        if value in names:
            values[index] = names[value]


def save_graph(model: onnx.ModelProto, path: Path, *, weight_bytes: int) -> None:
    """Write the graph; weights that are too large for one message are written to `<path>.data`."""
    is_large = weight_bytes > MAX_INLINE_BYTES
    options: dict[str, Any] = {"save_as_external_data": True, "location": f"{path.name}.data"} if is_large else {}
    onnx.save(model, str(path), **options)


def save_mapped(model: onnx.ModelProto, path: Path) -> None:
    """Write the graph with its weights in `<path>.data`, where a runtime can map them into memory."""
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=MIN_MAPPED_BYTES)


def check_graph(path: Path) -> None:
    """Raise the errors that `onnx.checker` finds in structure, types and inferred shapes."""
    onnx.checker.check_model(str(path), full_check=True)


def names_of(values: Sequence[Any]) -> list[str]:
    """Return the names of a graph's inputs or outputs."""
    return [value.name for value in values]


def opset_of(path: Path) -> int:
    """Return the version of the ONNX operators that a graph uses."""
    imports = onnx.load(str(path), load_external_data=False).opset_import
    return next((int(each.version) for each in imports if each.domain in ("", "ai.onnx")), 0)


def newest_opset() -> int:
    """Return the newest version that the installed onnx supports."""
    return int(onnx.defs.onnx_opset_version())
