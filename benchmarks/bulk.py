"""A data set of 100,000 texts: `nograd predict` beside sentence-transformers' loop and Ray Data, answers compared.

`python -m benchmarks.bulk [--rows=100000] [--chunks=20] [--ray-batch=32] [--tolerance=half] [--without-ray] [--fresh]`.
MiniLM in float32, two threads on two cores, from JSONL to Parquet, five ways, each in a process of its own:

    nograd predict          eager, its rows' memory bounded by --memory
    the same, tuned         the bundle that `nograd tune --goal throughput` picks here in two minutes, within --tolerance
    sentence-transformers   `encode` of all texts
    Ray Data                `map_batches` as a user writes it (benchmarks/peers/ray_data_peer.py), one actor of two cores
    nograd.ray              `nograd.ray.map_batches` in its place

The texts are cut into chunks; over each chunk all run in turn, and whoever was first is last in the next one. Ratios are of one
chunk; their median and range are told. Rates leave starting and loading out, which short runs at the beginning measure; chunks
of less than a thousand texts show only that it works. After every chunk the results are in benchmarks/results/bulk-ROWS.json,
and a run that was cut off is gone on with by the same command; another number of rows or chunks, or --fresh, begins anew.

The bound of eager's peak memory is what it takes for the longest texts alone, which is the model and its largest batches, and
--memory on top of that, which bounds the rows on their way.

On two cores the whole takes some hours, so `make bench` leaves it out; two thirds of them are Ray's, which --without-ray
saves. `--rows=1000 --chunks=2` shows that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import HERE, RESULTS, keep, ratios, report, spread
from benchmarks.contestants import (
    ENCODE,
    NOGRAD,
    ON_RAY,
    RAY,
    TUNED,
    Contestant,
    contestants,
    embeddings,
    forget,
    measured,
    peer_python,
)
from benchmarks.docstrings import texts, write_texts
from nograd.bundle import Bundle
from nograd.tuning.candidates import parse_tolerance

CORES, TUNE_S = 2, 120
BUNDLE = "minilm.bundle"
FEW, START_ROUNDS = 64, 3
"""Texts of the short runs that tell what starting costs, and how many there are: the least counts, what else runs only adds."""

MEMORY_MIB = 64

GOALS = ((NOGRAD, ENCODE, 1.3), (NOGRAD, RAY, 1.2), (ON_RAY, RAY, 1.2), (TUNED, ENCODE, 2.5))
"""Whose rate is how many times whose, at least."""

LARGEST_DIFFERENCE = 1e-5
"""Between embeddings of unit length in float32, batched otherwise."""


def goals(names: Collection[str]) -> list[tuple[str, str, float]]:
    """Return those of the goals that these contestants can meet."""
    return [(who, whom, times) for who, whom, times in GOALS if who in names and whom in names]


def wording(names: Collection[str]) -> str:
    """Return the goals as a sentence."""
    faster = ", ".join(f"{who} at least {times}x {whom}" for who, whom, times in goals(names))
    return (
        f"{faster}; answers within {LARGEST_DIFFERENCE}, the tuned ones' cosine as its tolerance says; "
        f"eager's peak memory within {MEMORY_MIB} MiB of the model's"
    )


def rate(data: Mapping[str, Any], name: str) -> list[float]:
    """Return rows per second, chunk by chunk, without starting."""
    start, rows = data["start"][name]["seconds"], data["rows"] // data["chunks"] - FEW
    return [rows / max(1e-9, chunk["used"][name]["seconds"] - start) for chunk in data["done"]]


def cpu_s(data: Mapping[str, Any], name: str) -> list[float]:
    """Return CPU seconds for 1,000 rows, chunk by chunk, without starting."""
    start, rows = data["start"][name]["cpu_s"], data["rows"] // data["chunks"] - FEW
    return [(chunk["used"][name]["cpu_s"] - start) / rows * 1000 for chunk in data["done"]]


def column(data: Mapping[str, Any], name: str, key: str) -> list[float]:
    return [chunk["used"][name][key] for chunk in data["done"]]


def memory_share(data: Mapping[str, Any]) -> tuple[float, float]:
    """Return the highest peak of eager `nograd predict`, and the bound: both MiB."""
    return max(column(data, NOGRAD, "peak_mib")), data["model_mib"] + MEMORY_MIB


def is_met(data: Mapping[str, Any]) -> bool:
    """Whether all of it holds, over the chunks that were done."""
    fast = all(median(ratios(rate(data, who), rate(data, whom))) >= times for who, whom, times in goals(data["start"]))
    cosine = parse_tolerance(data["tolerance"]).min_cosine
    equal = all(chunk["difference"] <= LARGEST_DIFFERENCE and chunk["tuned_cosine"] >= cosine for chunk in data["done"])
    peak, bound = memory_share(data)
    return fast and equal and peak <= bound


def table(data: Mapping[str, Any]) -> list[list[str]]:
    found = [["what", "rows/s", "CPU s for 1,000", "seconds in all", "peak MiB", "start s"]]
    for name, start in data["start"].items():
        figures = (rate(data, name), cpu_s(data, name), column(data, name, "seconds"), column(data, name, "peak_mib"))
        found.append([name, *map(spread, figures), f"{start['seconds']:.3g}"])
    lines = [
        (f"{who} / {whom}, at least {times}", spread(ratios(rate(data, who), rate(data, whom))))
        for who, whom, times in goals(data["start"])
    ]
    peak, bound = memory_share(data)
    lines += [
        ("largest difference, all but the tuned", f"{max(chunk['difference'] for chunk in data['done']):.1e}"),
        ("smallest cosine, tuned", f"{min(chunk['tuned_cosine'] for chunk in data['done']):.6f}"),
        ("nograd predict: peak MiB, bound", f"{peak:.0f}, {bound:.0f}"),
        (f"tuning, s; picked: {data['tuned']['picked']}", f"{data['tuned']['seconds']:.0f}"),
        (f"chunks of {data['rows'] // data['chunks']} done", f"{len(data['done'])} of {data['chunks']}"),
    ]
    return found + [[what, figure, "", "", "", ""] for what, figure in lines]


def tuned(data_file: Path, bundle: Path, tolerance: str) -> dict[str, Any]:
    """Tune MiniLM for throughput, with the texts as its data; return seconds, and what was picked."""
    command = ["tune", "minilm", "--data", str(data_file), "--goal", "throughput", "--tolerance", tolerance]
    command += ["--budget", f"{TUNE_S}s", "--output", str(bundle)]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nograd", *command], check=True, stdout=sys.stderr, cwd=HERE.parent)
    seconds = time.perf_counter() - begun
    with Bundle.read(bundle) as opened:
        settings = opened.settings
    return {"seconds": seconds, "picked": f"{settings.backend} {settings.precision}, {settings.layout}"}


def versions() -> dict[str, str]:
    code = "import sentence_transformers as s; print(s.__version__)"
    theirs = subprocess.check_output([peer_python(), "-c", code], text=True).strip()
    ours = {name: metadata.version(name) for name in ("torch", "transformers", "pyarrow", "ray")}
    return {**ours, "sentence-transformers": theirs}


def compared(outputs: Mapping[str, Path], found: Sequence[str]) -> dict[str, float]:
    """Return the largest difference between any two in float32, and the smallest cosine of the tuned one's with eager's."""
    answers = {name: embeddings(output, found) for name, output in outputs.items()}
    full = np.stack([each for name, each in answers.items() if name != TUNED])
    lengths = np.linalg.norm(answers[TUNED], axis=1) * np.linalg.norm(answers[NOGRAD], axis=1)
    cosines = (answers[TUNED] * answers[NOGRAD]).sum(1) / lengths
    return {"difference": float(np.ptp(full, axis=0).max()), "tuned_cosine": float(cosines.min())}


def one_chunk(index: int, folder: Path, who: Mapping[str, Contestant]) -> dict[str, Any]:
    """Let all run over one chunk, another one first each time."""
    names = list(who)
    names = names[index % len(names) :] + names[: index % len(names)]
    source = folder / f"chunk_{index}.jsonl"
    outputs = {name: folder / f"{place}.parquet" for place, name in enumerate(who)}
    used = {}
    for name in names:
        used[name] = asdict(measured(who[name], source, outputs[name]))
        sys.stdout.write(f"chunk {index}: {name}: {used[name]['seconds']:.1f} s\n")
        sys.stdout.flush()
    found = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    done = {"order": names, "used": used, **compared(outputs, found)}
    for output in outputs.values():
        forget(output)
    return done


def begun(settings: Mapping[str, Any], folder: Path, who: Mapping[str, Contestant]) -> dict[str, Any]:
    """Cut the texts, tune, measure what starting costs; return results that hold no chunk yet."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows, chunks = settings["rows"], settings["chunks"]
    found = texts(rows)
    if len(found) < rows:
        raise SystemExit(f"rows is {rows}; there are {len(found)} sentences in what is installed here")
    each = rows // chunks
    for index in range(chunks):
        write_texts(folder / f"chunk_{index}.jsonl", found[index * each : (index + 1) * each])
    few, longest = folder / "few.jsonl", folder / "longest.jsonl"
    write_texts(few, found[:FEW])
    write_texts(longest, sorted(found, key=len)[-FEW:])
    picked = tuned(folder / "chunk_0.jsonl", folder / BUNDLE, settings["tolerance"])
    model_mib = measured(who[NOGRAD], longest, folder / "longest.parquet").peak_mib
    return {**settings, "tuned": picked, "start": started(who, few), "model_mib": model_mib, "done": []}


def started(who: Mapping[str, Contestant], few: Path) -> dict[str, dict[str, float]]:
    """Return the least that the short run took of each, in turn."""
    rounds = [
        {name: asdict(measured(each, few, few.with_suffix(".parquet"))) for name, each in who.items()}
        for _ in range(START_ROUNDS)
    ]
    return {name: {key: min(used[name][key] for used in rounds) for key in rounds[0][name]} for name in who}


def gone_on_with(settings: Mapping[str, Any], results: Path) -> dict[str, Any] | None:
    """Return the results of a run like this one, whole or cut off, or None."""
    try:
        data: dict[str, Any] = json.loads(results.read_text())["data"]
    except (OSError, ValueError, KeyError):
        return None
    return data if {key: data.get(key) for key in settings} == settings else None


def main(options: argparse.Namespace) -> None:
    rows, chunks = options.rows, options.chunks
    if rows % chunks or rows // chunks <= FEW:
        raise SystemExit(f"rows is {rows} in {chunks} chunks; chunks must be of equal size, and of more than {FEW} rows")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what ends the contestant that runs
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ["OMP_NUM_THREADS"] = str(CORES)
    name = f"bulk-{rows}-without-ray" if options.without_ray else f"bulk-{rows}"
    folder = RESULTS / name
    how = {"ray_batch": options.ray_batch, "tolerance": options.tolerance}
    settings = {"rows": rows, "chunks": chunks, **how, "versions": versions()}
    sys.stdout.write(f"{', '.join(f'{package} {version}' for package, version in settings['versions'].items())}\n")
    who = contestants(folder / BUNDLE, f"{MEMORY_MIB}MiB", options.ray_batch)
    if options.without_ray:
        who = {each: contestant for each, contestant in who.items() if not contestant.has_workers}
    goal = wording(who)
    known = None if options.fresh else gone_on_with(settings, RESULTS / f"{name}.json")
    data = begun(settings, folder, who) if known is None else known
    for index in range(len(data["done"]), chunks):
        keep(name, data, goal=goal, met=False)
        data["done"].append(one_chunk(index, folder, who))
        sys.stdout.write(f"{'; '.join(f'{each} {rate(data, each)[-1]:.4g}/s' for each in who)}\n")
    report(name, table(data), data, goal=goal, met=is_met(data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--ray-batch", type=int, default=32)
    parser.add_argument("--tolerance", default="half")
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    main(parser.parse_args())
