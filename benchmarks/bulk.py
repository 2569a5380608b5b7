"""`nograd predict` over 100,000 texts against sentence-transformers' encode loop: rows/s and peak memory, answers compared.

`python -m benchmarks.bulk [ROWS [ROUNDS]]`: 100000 and 3 without. Both run MiniLM in float32 with torch's own number of
threads, from a JSONL file to a Parquet file of embeddings, a process each, in turn. Each is timed as a user waits for it,
start and loading included; the rate leaves those out, by a second, short run over the first texts. The texts are sentences of
the docstrings of what is installed here. sentence-transformers has an environment of its own, over our torch and transformers.

On two cores the whole takes about two hours, so `make bench` leaves it out; 400 rows and 1 round show that it works.
"""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import HERE, RESULTS, ratios, report, spread
from nograd.sources import folder_of

ROWS, ROUNDS, GOAL = 100_000, 3, 1.0
FEW = 64
"""Texts of the short run that tells what starting costs."""

LARGEST_DIFFERENCE = 1e-5
"""Between embeddings of unit length in float32, batched otherwise."""

PEER = """
import json, sys
import pyarrow as pa, pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
with open(sys.argv[2]) as lines:
    texts = [json.loads(line)["text"] for line in lines]
found = model.encode(texts, batch_size=32, show_progress_bar=False)
column = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1])
pq.write_table(pa.table({"text": texts, "embedding": column}), sys.argv[3])
"""


def sentences() -> Iterator[str]:
    """Yield sentences of 5 to 120 words out of docstrings: the standard library's, then those of installed packages."""
    seen = set()
    folders = [Path(os.__file__).parent, Path(np.__file__).parent.parent]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts):
        for text in docstrings(path):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                if sentence not in seen and 5 <= len(sentence.split()) <= 120:
                    seen.add(sentence)
                    yield sentence


def docstrings(path: Path) -> list[str]:
    try:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    except (SyntaxError, ValueError, RecursionError):  # templates, and files for other versions of Python
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [found for node in nodes if isinstance(node, kinds) if (found := ast.get_docstring(node))]


def write_texts(path: Path, rows: int) -> int:
    """Write as many texts as there are, `rows` at most; return their number."""
    count = 0
    with path.open("w") as out:
        for count, text in enumerate(sentences(), start=1):
            out.write(json.dumps({"text": text}) + "\n")
            if count == rows:
                break
    return count


def peer_python() -> str:
    """Return an interpreter that has sentence-transformers, and our torch and transformers."""
    folder = RESULTS / "venv-sentence-transformers"
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        ours = Path(np.__file__).parent.parent
        (next(folder.glob("lib/python*/site-packages")) / "ours.pth").write_text(f"{ours}\n")
        packages = ["sentence-transformers", "scikit-learn", "scipy", "joblib", "threadpoolctl", "narwhals"]
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-deps", *packages], check=True)
    return str(folder / "bin" / "python")


def measured(command: Sequence[str | Path]) -> tuple[float, float]:
    """Run a command to its end; return seconds and its peak memory in MiB."""
    begun = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.DEVNULL, cwd=HERE.parent)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return time.perf_counter() - begun, peak_mib(used)


def peak_mib(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / 1024


def embeddings(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    column = pq.read_table(path).column("embedding").combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


def main(rows: int, rounds: int) -> None:
    RESULTS.mkdir(exist_ok=True)
    folder = folder_of("minilm")
    whole, few = RESULTS / "predict.jsonl", RESULTS / "predict_few.jsonl"
    rows = write_texts(whole, rows)
    write_texts(few, FEW)
    ours, theirs = RESULTS / "predict_ours.parquet", RESULTS / "predict_theirs.parquet"
    peer = peer_python()

    def commands(source: Path) -> dict[str, list[str | Path]]:
        return {
            "nograd": [sys.executable, "-m", "nograd", "predict", "minilm", source, "-o", ours, "--restart"],
            "sentence-transformers": [peer, "-c", PEER, str(folder), source, theirs],
        }

    found: dict[str, dict[str, list[float]]] = {name: {"per_s": [], "seconds": [], "mib": []} for name in commands(whole)}
    for _ in range(rounds):
        for name in found:
            start_s, _ = measured(commands(few)[name])
            seconds, mib = measured(commands(whole)[name])
            found[name]["per_s"].append((rows - FEW) / max(1e-9, seconds - start_s))
            found[name]["seconds"].append(seconds)
            found[name]["mib"].append(mib)
    difference = float(np.abs(embeddings(ours) - embeddings(theirs)).max())
    share = ratios(found["nograd"]["per_s"], found["sentence-transformers"]["per_s"])
    table = [["what", "rows/s", "seconds in all", "peak MiB"]]
    table += [[name, *(spread(each[key]) for key in ("per_s", "seconds", "mib"))] for name, each in found.items()]
    table += [
        ["nograd, times the rate", spread(share), "", ""],
        [f"{rows} answers: largest difference", f"{difference:.1e}", "", ""],
    ]
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "pyarrow")}
    theirs_version = "import sentence_transformers as s; print(s.__version__)"
    versions["sentence-transformers"] = subprocess.check_output([peer, "-c", theirs_version], text=True).strip()
    data = {"rows": rows, "versions": versions, "difference": difference, **found}
    sys.stdout.write(f"{', '.join(f'{name} {version}' for name, version in versions.items())}\n")
    met = median(share) >= GOAL and difference <= LARGEST_DIFFERENCE
    report("predict", table, data, goal=f"at least {GOAL}x the rate, answers within {LARGEST_DIFFERENCE}", met=met)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else ROWS, int(sys.argv[2]) if sys.argv[2:] else ROUNDS)
