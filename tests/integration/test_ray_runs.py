"""Long runs on Ray: a cluster of real processes on the loopback interface, whose workers and machines are killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from datasets import Dataset, Features, Image, IterableDataset, Value

import hf_mllm_aug
from hf_mllm_aug import Captioner
from hf_mllm_aug.errors import AugError, CaptionError, UsageError
from hf_mllm_aug.long_runs import LongRun, on_ray
from hf_mllm_aug.schema import base_features
from tests.conftest import picture_bytes
from tests.fetching import fetcher
from tests.integration.command_line import environment
from tests.web_server import WebServer, answer

pytestmark = pytest.mark.slow

SHARD = 4
PATIENCE = 240.0  # seconds, for machines that are busy; a bound and no measure


def _until(found: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.005)
    raise TimeoutError(f"waited in vain for {what}")


class TwoMachines:
    """A Ray cluster of nodes on this machine; each has one CPU, and so one worker."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        # With the defaults a machine that is gone is missed after half a minute.
        config = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
        self.nodes = [self._add(_system_config=config)]

    def _add(self, **settings: Any) -> Any:
        settings = {"num_cpus": 1} | settings | {"object_store_memory": 100_000_000, "include_dashboard": False}
        node = self._cluster.add_node(wait=False, **settings)
        self._cluster.wait_for_nodes(PATIENCE)
        return node

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @contextlib.contextmanager
    def second(self, **settings: Any) -> Iterator[Any]:
        """Another machine for a while."""
        node = self._add(**settings)
        try:
            yield node
        finally:
            if node in self._cluster.worker_nodes:
                self._cluster.remove_node(node)

    def kill(self, node: Any) -> None:
        """Take a machine's plug out."""
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoMachines]:
    """A cluster of one machine, and the way to a second."""
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'hf-mllm-aug[ray]'")
    folder = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it, whose paths must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback addresses
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_TMPDIR", folder)
        try:
            machines = TwoMachines()
            yield machines
            machines.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """(40,) rows in 10 shards; one has no picture."""
    features = Features({"key": Value("string"), "image": Image()})
    images: list[Any] = [{"bytes": picture_bytes(number), "path": None} for number in range(40)]
    images[21] = {"bytes": b"no picture", "path": "21.png"}
    return Dataset.from_dict({"key": [f"k{i}" for i in range(40)], "image": images}, features=features)


@pytest.fixture(scope="module")
def captioners(random_llava: Path) -> list[Captioner]:
    """One that takes the likeliest word, and one that draws."""
    sampling = {"do_sample": True, "temperature": 0.9, "top_p": 0.95}
    return [
        Captioner(str(random_llava), name="greedy", max_new_tokens=24),
        Captioner(str(random_llava), name="drawn", max_new_tokens=24, generation=sampling, seed=3),
    ]


@pytest.fixture(scope="module")
def expected(rows: Dataset, captioners: list[Captioner], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What an undisturbed local run gives."""
    found = hf_mllm_aug.run(rows, captioners, tmp_path_factory.mktemp("local") / "run", shard_size=SHARD)
    values = _values(found)
    assert len({row["caption_drawn"] for row in values}) > 30  # else equality would say little
    return values


def _values(found: Dataset) -> list[Any]:
    return [{name: value for name, value in row.items() if name != "image"} for row in found.to_list()]


def _claims(folder: Path) -> list[tuple[str, int, int]]:
    """The stage, shard and process of everything that is under work."""
    found = []
    for path in folder.glob("claims/*.json"):
        stage, _, shard = path.stem.rpartition("-")
        with contextlib.suppress(OSError, ValueError):  # given up, or half written, at this moment
            found.append((stage, int(shard), int(json.loads(path.read_bytes())["pid"])))
    return found


class Interference(threading.Thread):
    """Does something to a run once some shards are finished and a worker of some machine is at work."""

    def __init__(self, folder: Path, node: Any, act: Callable[[int], None]) -> None:
        super().__init__(daemon=True)
        self._folder, self._act = folder, act
        self._raylet: int = node.all_processes["raylet"][0].process.pid
        self.victim: tuple[str, int, int] | None = None
        self.finished_before = -1

    def _working(self) -> tuple[str, int, int] | None:
        if not list(self._folder.glob("greedy/*.parquet")):
            return None
        for stage, shard, pid in _claims(self._folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._raylet in [parent.pid for parent in psutil.Process(pid).parents()]:
                    return stage, shard, pid
        return None

    def run(self) -> None:
        self.victim = _until(self._working, "a worker at work")
        self._act(self.victim[2])
        self.finished_before = len(list(self._folder.glob("drawn/*.parquet")))


def _on(
    cluster: TwoMachines, rows: Dataset | IterableDataset, captioners: Any, folder: Path | str, **settings: Any
) -> Dataset:
    return hf_mllm_aug.run(
        rows, captioners, folder, shard_size=SHARD, executor="ray", address=cluster.address, **settings
    )


def _logged(path: Path) -> list[int]:
    return sorted(json.loads(line)["shard"] for line in path.read_text().splitlines())


def test_ray_and_local_runs_finish_each_others_work(
    cluster: TwoMachines, rows: Dataset, captioners: list[Captioner], expected: list[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings: dict[str, Any] = {"shard_size": SHARD}
    hf_mllm_aug.run(rows, captioners, folder, shard="0/4", **settings)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    part = _on(cluster, rows, captioners, folder, shard="1/2", log_json=tmp_path / "ray.jsonl")
    assert _logged(tmp_path / "ray.jsonl") == [1, 3, 5, 7, 9]
    odd = [row for number, row in enumerate(expected) if number // SHARD % 2]
    assert _values(part) == odd
    done = hf_mllm_aug.run(rows, captioners, folder, log_json=tmp_path / "local.jsonl", **settings)
    assert _logged(tmp_path / "local.jsonl") == [2, 6]
    assert _values(done) == expected
    assert len(stamps) == 6
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not list(folder.glob("claims/*")) + list(folder.glob("ray/*"))


@pytest.mark.parametrize("times", [1, 3])
def test_workers_that_die_before_they_begin_are_started_again(
    times: int,
    cluster: TwoMachines,
    rows: Dataset,
    captioners: list[Captioner],
    expected: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import ray

    outcomes, asked = on_ray._outcomes, []

    def dying(job: Any, shards: list[int]) -> Iterator[Any]:
        asked.append(shards)
        found = outcomes(job, shards[:4])
        if len(asked) > times:
            found = outcomes(job, shards)
        elif len(asked) > 1:
            raise ray.exceptions.ActorDiedError
        with contextlib.closing(found):
            yield from found
        if len(asked) <= times:
            raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(on_ray, "_outcomes", dying)
    folder = tmp_path / "run"
    if times < 3:
        assert _values(_on(cluster, rows, captioners, folder, log_json=tmp_path / "log.jsonl")) == expected
        assert _logged(tmp_path / "log.jsonl") == list(range(10))
    else:
        with pytest.raises(AugError, match=r"^Ray gave up: ActorDiedError: .* Finished shards are kept"):
            _on(cluster, rows, captioners, folder, log_json=tmp_path / "log.jsonl")
        assert _logged(tmp_path / "log.jsonl") == [0, 1, 2, 3]
    assert [len(shards) for shards in asked] == [10, 6, 6][: times + 1]
    assert caplog.text.count("they are started again") == min(times, 2)


@pytest.mark.soak
def test_a_worker_that_is_killed_changes_nothing(
    cluster: TwoMachines, rows: Dataset, captioners: list[Captioner], expected: list[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    killer = Interference(folder, cluster.nodes[0], lambda pid: os.kill(pid, signal.SIGKILL))
    killer.start()
    done = _on(cluster, rows, captioners, folder, log_json=tmp_path / "log.jsonl")
    killer.join(PATIENCE)
    assert killer.victim is not None
    assert 0 <= killer.finished_before < 10
    assert not psutil.pid_exists(killer.victim[2])
    assert _values(done) == expected
    logged = _logged(tmp_path / "log.jsonl")
    assert len(logged) == len(set(logged)) >= 9  # the report of a shard that was just finished may be lost
    _assert_whole(folder)


@pytest.mark.soak
def test_a_machine_that_is_lost_changes_nothing(
    cluster: TwoMachines, rows: Dataset, captioners: list[Captioner], expected: list[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with cluster.second() as node:
        killer = Interference(folder, node, lambda _: cluster.kill(node))
        killer.start()
        done = _on(cluster, rows, captioners, folder)
        killer.join(PATIENCE)
    assert killer.victim is not None
    assert 0 <= killer.finished_before < 10
    assert _values(done) == expected
    _assert_whole(folder)


def _assert_whole(folder: Path) -> None:
    names = [f"{number:05d}.parquet" for number in range(10)]
    for stage in ("greedy", "drawn"):
        assert sorted(path.name for path in (folder / stage).iterdir() if ".tmp~" not in path.name) == names


def test_errors_come_back_as_themselves(cluster: TwoMachines, rows: Dataset, random_llava: Path) -> None:
    strict = Captioner(str(random_llava), on_error="raise", max_new_tokens=4)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(CaptionError, match=r"'k21'.*not a picture"):
        _on(cluster, rows, strict, Path(folder))
    # What is in this process's memory, no other process sees.
    with pytest.raises(UsageError, match=r"does not see the run in memory://ray-run"):
        _on(cluster, rows, strict, "memory://ray-run")


@pytest.mark.soak
def test_a_shard_that_goes_on_costing_workers_is_given_up(
    cluster: TwoMachines, random_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = os.getpid()

    def read(parts: list[int]) -> Iterator[dict[str, Any]]:
        for part in parts:
            for number in range(4 * part, 4 * part + 4):
                if number == 6 and os.getpid() != driver:  # as a picture does that is too much for a decoder
                    os.kill(os.getpid(), signal.SIGSEGV)
                yield {"key": f"k{number}", "image": {"bytes": picture_bytes(number), "path": None}}

    features = Features({"key": Value("string"), "image": Image()})
    stream = IterableDataset.from_generator(read, features=features, gen_kwargs={"parts": [0, 1, 2]})
    monkeypatch.setattr(on_ray, "_LOST_WORKERS", 1)
    with pytest.raises(AugError, match=r"^shard 1 has cost 2 workers.* Finished shards are kept"):
        _on(cluster, stream, Captioner(str(random_llava), name="greedy", max_new_tokens=4), tmp_path / "run")
    assert "00001.parquet" not in os.listdir(tmp_path / "run" / "greedy")
    assert not list(tmp_path.glob("run/ray/*"))


def test_each_worker_has_a_gpu_where_there_are_any_and_they_are_wanted(
    cluster: TwoMachines, rows: Dataset, random_llava: Path, tmp_path: Path
) -> None:
    def workers(captioner: Captioner, tasks: int) -> tuple[int, dict[str, int]]:
        return on_ray._workers(LongRun(rows, captioner, tmp_path / captioner.label).job, tasks)

    anywhere, on_cpu = (Captioner(str(random_llava), name=str(device), device=device) for device in (None, "cpu"))
    with on_ray._cluster(cluster.address):
        assert workers(anywhere, 100) == (1, {"num_cpus": 1})
    with cluster.second(num_cpus=16, num_gpus=8), on_ray._cluster(cluster.address):
        assert workers(anywhere, 100) == (8, {"num_gpus": 1})
        assert workers(anywhere, 3) == (3, {"num_gpus": 1})
        # 17 CPUs of two machines: at most four copies of a model on each, on average.
        assert workers(on_cpu, 100) == (5, {"num_cpus": 3})


@pytest.mark.soak
def test_a_cluster_of_its_own_is_private_and_ends_with_ctrl_c(
    rows: Dataset, captioners: list[Captioner], expected: list[Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'hf-mllm-aug[ray]'")
    rows.save_to_disk(str(tmp_path / "rows"))
    code = (
        "import sys, hf_mllm_aug, datasets; from hf_mllm_aug import Captioner\n"
        f"captioners = [Captioner(**settings) for settings in {[captioner.settings() for captioner in captioners]!r}]\n"
        f"rows = datasets.load_from_disk('rows')\n"
        f"hf_mllm_aug.run(rows, captioners, 'run', shard_size={SHARD}, executor='ray')\n"
    )
    (tmp_path / "home").mkdir()
    sockets = tempfile.mkdtemp(prefix="ray-")  # whose paths must be short
    env = environment(tmp_path / "hf") | {"HOME": str(tmp_path / "home"), "RAY_TMPDIR": sockets, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)
    try:
        _until(lambda: list(tmp_path.glob("run/drawn/*.parquet")) or driver.poll() is not None, "a finished shard")
        family = psutil.Process(driver.pid).children(recursive=True)
        listening = [
            connection.laddr.ip
            for process in [psutil.Process(driver.pid), *family]
            for connection in _connections(process)
            if connection.status == psutil.CONN_LISTEN
        ]
        driver.send_signal(signal.SIGINT)
        out, err = driver.communicate(timeout=PATIENCE)
    finally:
        driver.kill()
        shutil.rmtree(sockets, ignore_errors=True)
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}
    assert driver.returncode != 0
    assert err.startswith("Traceback")  # Python's own, and nothing of Ray's
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert out == ""
    assert psutil.wait_procs(family, timeout=30)[1] == []
    finished = len(list(tmp_path.glob("run/drawn/*.parquet")))
    assert 0 < finished < 10
    log = tmp_path / "log.jsonl"
    done = hf_mllm_aug.run(rows, captioners, tmp_path / "run", shard_size=SHARD, log_json=log)
    assert _values(done) == expected
    assert len(_logged(log)) >= 10 - finished


def _connections(process: psutil.Process) -> Any:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections("inet")
    return []


def test_a_finished_run_needs_no_cluster(
    rows: Dataset, captioners: list[Captioner], expected: list[Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'hf-mllm-aug[ray]'")
    settings: dict[str, Any] = {"shard_size": SHARD}
    hf_mllm_aug.run(rows, captioners, tmp_path / "run", **settings)
    done = hf_mllm_aug.run(rows, captioners, tmp_path / "run", executor="ray", address="127.0.0.1:9", **settings)
    assert _values(done) == expected


def test_rows_that_cannot_travel_are_refused(
    rows: Dataset, captioners: list[Captioner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'hf-mllm-aug[ray]'")
    with pytest.raises(UsageError, match=r"a stream of one shard .* a cluster cannot share"):
        hf_mllm_aug.run(rows.to_iterable_dataset(), captioners, tmp_path / "stream", executor="ray")
    monkeypatch.setattr(on_ray, "_MOST_IN_MEMORY", 1000)
    with pytest.raises(UsageError, match=r"in this process's memory.*save_to_disk"):
        hf_mllm_aug.run(rows, captioners, tmp_path / "memory", executor="ray")


def test_another_cluster_than_the_one_that_is_connected_is_refused(cluster: TwoMachines) -> None:
    with on_ray._cluster(cluster.address):
        for address in (None, "auto", cluster.address):
            with on_ray._cluster(address):
                pass
        with (
            pytest.raises(UsageError, match=f"connected to the Ray cluster at {cluster.address}, not to 127.0.0.1:9"),
            on_ray._cluster("127.0.0.1:9"),
        ):
            pass


def test_workers_fetch_each_picture_once(cluster: TwoMachines, random_llava: Path, tmp_path: Path) -> None:
    numbers = range(12)
    captioner = Captioner(str(random_llava), name="one", max_new_tokens=6)
    settings: dict[str, Any] = {"shard_size": 2, "progress": False}
    with WebServer() as server:
        server.routes = {f"/{number}": answer(picture_bytes(number)) for number in numbers if number != 7}
        columns = {
            "key": [f"k{number}" for number in numbers],
            "image": [None] * len(numbers),
            "url": [server.url(f"/{number}") for number in numbers],
            "caption": ["raw"] * len(numbers),
        }
        rows = Dataset.from_dict(columns, features=base_features())
        done = hf_mllm_aug.run(
            rows, captioner, tmp_path / "ray", fetch=fetcher(), executor="ray", address=cluster.address, **settings
        )
        assert [server.count(f"/{number}") for number in numbers] == [1] * len(numbers)
        expected = hf_mllm_aug.run(rows, captioner, tmp_path / "local", fetch=fetcher(), **settings)
        assert [server.count(f"/{number}") for number in numbers] == [2] * len(numbers)
    assert done["status"][:] == ["http_error" if number == 7 else "ok" for number in numbers]
    assert done.features == expected.features
    assert done.to_list() == expected.to_list()
    assert not list(tmp_path.glob("ray/claims/*")) + list(tmp_path.glob("ray/ray/*"))
