"""`python -m scripts.structure` measures the shape of the code: sizes, late imports, double names, functions per request.

`--of FOLDER` measures another checkout, so that two of them can be compared.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent

TRACE = """
import asyncio, json, sys
from pathlib import Path
from tests.fakes import Site, doubling, x

package = str(Path(sys.argv[1]) / "src" / "nograd")
entered = set()

def profile(frame, event, _argument):
    if event == "call" and frame.f_code.co_filename.startswith(package):
        entered.add((frame.f_code.co_filename, frame.f_code.co_qualname))

with Site({"m": doubling()}, cache_mb=float(sys.argv[2])) as site:
    site.infer("m", x([1, 2]))
    sys.setprofile(profile)
    site.infer("m", x([3, 4]))
    sys.setprofile(None)
print(json.dumps([len(entered), len({file for file, _ in entered})]))
"""
"""Functions and files of the package that one infer request enters, over ASGI, in the event loop's thread."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Figures of one checkout."""

    modules: int
    lines: int
    file_lines: tuple[int, int, int]
    """Median, 90th percentile and maximum."""

    function_lines: tuple[int, int, int]
    longest_function: str
    late_imports: int
    """Imports inside functions."""

    double_classes: int
    """Class names that two or more modules define."""

    root_modules: int
    """Modules directly in the package."""

    logic_in_init: int
    """Functions and classes that `__init__.py` files define."""


def measure(root: Path) -> Shape:
    """Return the figures of a checkout."""
    package = root / "src" / "nograd"
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(package.rglob("*.py"))}
    files = sorted(len(path.read_text("utf-8").splitlines()) for path in trees)
    functions = sorted((_lines(node), f"{path.relative_to(package)}: {node.name}") for path, node in _functions(trees))
    classes = Counter(
        name for tree in trees.values() for name in {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    )
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    inits = [tree for path, tree in trees.items() if path.name == "__init__.py"]
    return Shape(
        modules=len(trees),
        lines=sum(files),
        file_lines=_spread(files),
        function_lines=_spread([lines for lines, _ in functions]),
        longest_function=functions[-1][1],
        late_imports=sum(_late_imports(node) for _, node in _functions(trees)),
        double_classes=sum(count > 1 for count in classes.values()),
        root_modules=len(list(package.glob("*.py"))),
        logic_in_init=sum(isinstance(node, definitions) for tree in inits for node in tree.body),
    )


def entered(root: Path, cache_mb: float) -> tuple[int, int]:
    """Return how many functions and files of the package one infer request enters."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}
    command = [sys.executable, "-c", TRACE, str(root), str(cache_mb)]
    ended = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    functions, files = json.loads(ended.stdout.splitlines()[-1])
    return functions, files


def _functions(trees: dict[Path, ast.Module]) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, without its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def _late_imports(node: ast.AST) -> int:
    """Return the import statements directly in a function, without those of functions inside it."""
    found, pending = 0, list(ast.iter_child_nodes(node))
    while pending:
        each = pending.pop()
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        found += isinstance(each, ast.Import | ast.ImportFrom)
        pending.extend(ast.iter_child_nodes(each))
    return found


def _spread(values: list[int]) -> tuple[int, int, int]:
    ordered = sorted(values)
    return round(median(ordered)), ordered[int(0.9 * (len(ordered) - 1))], ordered[-1]


def main() -> None:
    """Print the figures as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=Path, default=ROOT, metavar="FOLDER", help="Checkout to measure; default: this one.")
    root = parser.parse_args().of.resolve()
    shape = measure(root)
    rows = [
        ("modules, lines", f"{shape.modules}, {shape.lines}"),
        ("file: median / p90 / max lines", " / ".join(map(str, shape.file_lines))),
        ("function body: median / p90 / max lines", " / ".join(map(str, shape.function_lines))),
        ("longest function", shape.longest_function),
        ("imports inside functions", str(shape.late_imports)),
        ("class names used twice or more", str(shape.double_classes)),
        ("modules in the package's root", str(shape.root_modules)),
        ("functions and classes in __init__.py", str(shape.logic_in_init)),
    ]
    for cache_mb, label in ((0.0, "off"), (64.0, "on")):
        functions, files = entered(root, cache_mb)
        rows.append((f"functions (files) per request, cache {label}", f"{functions} ({files})"))
    for name, value in rows:
        print(f"{name:45} {value}")  # noqa: T201  its output


if __name__ == "__main__":
    main()
