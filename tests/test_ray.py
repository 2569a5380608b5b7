"""On a real Ray cluster of this machine: the same rows as without it, whatever dies meanwhile."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd import BatchPredictor, load
from nograd.datasets.run import PredictJob, RunSummary, run
from nograd.datasets.run_files import Files
from nograd.errors import ConfigError, ItemError, JobError, MissingExtraError, NogradError
from tests.bundles import write_texts
from tests.predicting import Seen, nograd_predict, read_jsonl, write_jsonl
from tests.running_server import FOLDER
from tests.served_models import FATAL, GATE, MARKER_VARIABLE, fragile
from tests.test_predict_command import without

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # 127.0.0.1 it is; see nograd.ray.address
ray = pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")  # Ray Data uses what it warns of

ROWS = [{"id": i, "x": [i + 0.25, 0.5]} for i in range(256)]
MODEL = "tests.served_models:fragile"


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the actors' models leave that they died."""
    return tmp_path_factory.mktemp("ray") / "died"


@pytest.fixture(scope="module", autouse=True)
def cluster(marker: Path) -> Iterator[None]:
    """Two cores' worth of Ray; its processes see this environment, and this folder."""
    import ray.data

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER.parent)
        patch.setenv(MARKER_VARIABLE, str(marker))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])))
        ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False,
            logging_level="error", _node_ip_address="127.0.0.1",
        )  # fmt: skip
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


def dataset(rows: list[dict[str, Any]], blocks: int = 4) -> Any:
    import ray.data

    return ray.data.from_items(rows, override_num_blocks=blocks)


def mapped(rows: list[dict[str, Any]], model: str, **options: Any) -> list[dict[str, Any]]:
    import nograd.ray

    found: list[dict[str, Any]] = nograd.ray.map_batches(dataset(rows), model, **options).take_all()
    return found


def on_ray(source: Path, output: Path, **settings: Any) -> RunSummary:
    from nograd.ray.actor_pool import actor_pool_of
    from nograd.ray.actors import recipe_of

    job = PredictJob(MODEL, str(source), output, max_batch_size=8, commit_s=0.0, **settings)
    with actor_pool_of(recipe_of(MODEL)) as over:
        return run(job, lambda: load(MODEL), Seen(), lambda: 0.0, over)


def alone(source: Path, output: Path, **settings: Any) -> RunSummary:
    job = PredictJob(MODEL, str(source), output, max_batch_size=8, commit_s=0.0, **settings)
    return run(job, lambda: load(MODEL), Seen(), lambda: 0.0)


def test_a_data_set_gets_the_answers_of_batch_predictor_in_order_though_an_actor_dies(marker: Path) -> None:
    marker.unlink(missing_ok=True)

    rows = [*ROWS[:150], {"id": 150, "x": [FATAL, 0.5]}, *ROWS[151:]]

    found = mapped(rows, MODEL, max_batch_size=8, window_batches=2)

    assert marker.exists()
    windows = [[{"x": row["x"]} for row in rows[at : at + 16]] for at in range(0, 256, 16)]
    expected = [row for window in BatchPredictor(fragile(), max_batch_size=8).run_windows(windows) for row in window.rows]
    assert [list(row) for row in found] == [["id", "sum", "company"]] * 256
    assert [row["id"] for row in found] == list(range(256))
    for name in ("sum", "company"):
        np.testing.assert_array_equal(
            [row[name] for row in found], [row[name][0] for row in expected if not isinstance(row, ItemError)]
        )


def test_texts_of_a_bundle_get_its_answers(tmp_path: Path) -> None:
    bundle = write_texts(tmp_path / "texts.bundle")
    rows = [{"id": i, "title": " ".join(["hello", "world"] * (1 + i % 3))} for i in range(40)]

    found = mapped(rows, str(bundle), actors=1)

    expected = load(str(bundle)).predict([row["title"] for row in rows])
    assert [(row["id"], row["title"]) for row in found] == [(row["id"], row["title"]) for row in rows]
    np.testing.assert_array_equal([row["embedding"] for row in found], [row["embedding"] for row in expected])


def test_a_bad_row_is_left_out_or_ends_it_with_its_reason() -> None:
    rows = [{"id": i, "x": [GATE if i == 3 else float(i), 0.0]} for i in range(8)]

    assert [row["id"] for row in mapped(rows, MODEL, on_error="skip")] == [0, 1, 2, 4, 5, 6, 7]
    with pytest.raises(Exception, match="42 is not served here"):
        mapped(rows, MODEL)


def test_actors_leave_out_answers_with_other_keys_than_the_first() -> None:
    rows = [{"id": i, "x": [30.0 if i % 16 == 8 else 1.0, 0.5]} for i in range(64)]  # each block begins with an ordinary row

    found = mapped(rows, "tests.test_ray_contract:keyed_model", on_error="skip")

    assert [row["id"] for row in found] == [i for i in range(64) if i % 16 != 8]
    assert {tuple(row) for row in found} == {("id", "value", "low")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_error": "stop"}, "on_error is 'stop'; it must be fail or skip"),
        ({"window_batches": 0}, "window_batches is 0; it must be at least 1"),
        ({"actors": 0}, "actors is 0; it must be at least 1"),
        ({"cores": 3}, "no machine of the cluster has 3 cores for an actor"),
        ({"device": "cuda"}, "no machine of the cluster has 1 cores and 1 GPU for an actor"),
    ],
)
def test_a_setting_out_of_its_range_is_told_before_anything_runs(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mapped(ROWS, MODEL, **options)


def test_a_run_on_actors_one_of_which_dies_writes_the_bytes_of_a_run_without(tmp_path: Path, marker: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*ROWS, {"id": 999, "x": [FATAL, 0]}, *ROWS, *ROWS])
    marker.touch()
    alone(source, tmp_path / "alone.jsonl")
    marker.unlink()

    on_ray(source, tmp_path / "ray.jsonl")

    assert marker.exists()
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_a_run_that_was_begun_without_goes_on_with_it(tmp_path: Path, marker: Path) -> None:
    marker.touch()
    bad = [*ROWS, {"id": 999, "x": [GATE, 0]}, {"id": 1000, "x": "no numbers"}, *ROWS]
    source = write_jsonl(tmp_path / "in.jsonl", bad)
    alone(source, tmp_path / "alone.jsonl", on_error="skip")
    with pytest.raises(JobError, match="42 is not served here"):
        alone(source, tmp_path / "out.jsonl")

    summary = on_ray(source, tmp_path / "out.jsonl", on_error="skip")

    assert (summary.rows, summary.bad, summary.rows_now) == (512, 2, 256)
    for name in ("{}.jsonl", "{}.jsonl.errors.jsonl"):
        assert (tmp_path / name.format("out")).read_bytes() == (tmp_path / name.format("alone")).read_bytes()


def test_a_row_that_ends_every_process_ends_the_run_and_what_is_done_is_kept(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nograd.ray import actor_pool

    monkeypatch.setattr(actor_pool, "RESTARTS", 0)
    source = write_jsonl(tmp_path / "in.jsonl", [*ROWS, {"id": 999, "x": [FATAL, 0]}])
    marker.unlink(missing_ok=True)

    with pytest.raises(JobError, match=r"a window could not be run: .*rerun the command to resume"):
        on_ray(source, tmp_path / "out.jsonl")

    kept = len(read_jsonl(Files(tmp_path / "out.jsonl").part))
    assert kept in (0, 256)  # 0 if both windows were on the process that ended
    assert on_ray(source, tmp_path / "out.jsonl").rows_now == 257 - kept
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 257


def test_a_model_that_no_actor_can_load_is_one_sentence(tmp_path: Path) -> None:
    from nograd.ray.actor_pool import actor_pool_of
    from nograd.ray.actors import ActorRecipe

    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    job = PredictJob(MODEL, str(source), tmp_path / "out.jsonl")
    with actor_pool_of(ActorRecipe("tests.served_models:raising")) as over, pytest.raises(ConfigError) as raised:
        run(job, lambda: load(MODEL), Seen(), lambda: 0.0, over)

    assert "the weights are gone" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_actor_computes_with_as_many_cores_as_its_bundle_was_tuned_for(tmp_path: Path) -> None:
    from nograd.ray.actors import recipe_of

    bundle = write_texts(tmp_path / "texts.bundle", lanes=2, num_threads=2)

    assert recipe_of(bundle).cores == min(4, len(os.sched_getaffinity(0)))
    assert recipe_of(bundle, cores=1).cores == 1
    assert recipe_of(MODEL).cores == 1


def test_the_command_writes_the_bytes_of_the_command_without_and_leaves_no_process(tmp_path: Path) -> None:
    bundle = write_texts(tmp_path / "texts.bundle")
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": i, "title": "hello " * (1 + i % 5)} for i in range(700)])

    short = tempfile.mkdtemp(prefix="ray")  # the names of Ray's sockets begin with it, and have 107 bytes at most

    plain = nograd_predict(bundle, source, "-o", tmp_path / "plain.parquet")
    ended = nograd_predict(bundle, source, "-o", tmp_path / "out.parquet", "--ray", "--ray-actors", "1", RAY_TMPDIR=short)

    assert (plain.returncode, ended.returncode) == (0, 0), f"{plain.stderr}{ended.stderr}"
    assert ended.stdout.startswith(f"{tmp_path / 'out.parquet'}: 700 rows, ")
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()
    assert processes_with(short) == []
    shutil.rmtree(short)


def processes_with(text: str) -> list[str]:
    """Return the command lines of processes that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if text in line and not line.startswith(sys.executable + " -m pytest"):
            found.append(line)
    return found


def test_without_ray_the_command_says_what_to_install(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)

    ended = without(["ray"], "served_models:mortal", source, "-o", tmp_path / "out.jsonl", "--ray")

    assert ended.returncode == 2
    assert ended.stderr == "nograd: ray is not installed; run: pip install 'nograd[ray]'\n"


@pytest.mark.parametrize("error", [ItemError("item 3: no", 3), MissingExtraError("ray", "ray"), JobError("it stopped")])
def test_an_error_is_the_same_behind_the_border_of_a_process(error: NogradError) -> None:
    found = pickle.loads(pickle.dumps(error))

    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
