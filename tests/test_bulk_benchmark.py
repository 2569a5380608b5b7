"""The arithmetic of `benchmarks.bulk`: what a rate leaves out, whose answers are compared, which run is gone on with."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bulk import FEW, GOALS, gone_on_with, is_met, memory_share, rate, table
from benchmarks.contestants import ENCODE, NOGRAD, ON_RAY, RAY, TUNED, embeddings

pa = pytest.importorskip("pyarrow")

SETTINGS = {"rows": 2 * (FEW + 100), "chunks": 2, "ray_batch": 32, "tolerance": "half", "versions": {"torch": "2"}}


def used(seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "cpu_s": 2 * seconds, "peak_mib": 600.0}


def results(**changed: Any) -> dict[str, Any]:
    """Two chunks: 100 texts beside those of the short run take 10 s with the loops of others, 5 s with ours."""
    seconds = {NOGRAD: 5.0, TUNED: 2.0, ENCODE: 10.0, RAY: 10.0, ON_RAY: 5.0}
    chunk = {"used": {name: used(3.0 + each) for name, each in seconds.items()}, "difference": 1e-7, "tuned_cosine": 1.0}
    found = {
        **SETTINGS, "start": {name: used(3.0) for name in seconds}, "model_mib": 580.0,
        "tuned": {"seconds": 120.0, "picked": "onnx float32"}, "done": [chunk, chunk],
    }  # fmt: skip
    return {**found, **changed}


def test_a_rate_leaves_out_what_starting_costs_and_its_texts() -> None:
    assert rate(results(), NOGRAD) == [20.0, 20.0]
    assert rate(results(), ENCODE) == [10.0, 10.0]


def test_all_goals_together_are_met_or_missed() -> None:
    slow = results()["done"][0] | {"used": results()["done"][0]["used"] | {NOGRAD: used(12.0)}}
    far = results()["done"][0] | {"difference": 2e-5}

    assert is_met(results())
    assert not is_met(results(done=[slow]))
    assert not is_met(results(done=[far]))
    assert not is_met(results(model_mib=500.0))


def test_memory_is_compared_with_the_models_and_the_rows_bound_on_top() -> None:
    assert memory_share(results()) == (600.0, 580.0 + 64)


def test_the_table_tells_every_ratio_and_how_far_it_is() -> None:
    told = table(results(done=results()["done"][:1]))

    assert [row[0] for row in told if " / " in row[0]] == [f"{who} / {whom}, at least {times}" for who, whom, times in GOALS]
    assert ["chunks of 164 done", "1 of 2", "", "", "", ""] in told


def test_the_same_command_goes_on_and_another_begins_anew(tmp_path: Path) -> None:
    kept = tmp_path / "bulk-328.json"

    assert gone_on_with(SETTINGS, kept) is None
    kept.write_text('{"data": {"rows"')
    assert gone_on_with(SETTINGS, kept) is None
    kept.write_text(json.dumps({"data": results()}))
    assert gone_on_with(SETTINGS, kept) == results()
    assert gone_on_with({**SETTINGS, "chunks": 4}, kept) is None


def test_embeddings_are_found_by_their_texts_in_files_of_any_order(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for name, texts, vectors in (("a", ["two", "three"], [[2.0, 2.5], [3.0, 3.5]]), ("b", ["one"], [[1.0, 1.5]])):
        pq.write_table(pa.table({"text": texts, "embedding": vectors}), tmp_path / f"{name}.parquet")

    assert embeddings(tmp_path, ["one", "two", "three"]).tolist() == [[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]
    with pytest.raises(SystemExit, match="has 3 rows, 3 of them different, for 2 texts"):
        embeddings(tmp_path, ["one", "two"])
