"""`caption` as a long run, and `plan`: killed and started again, in pieces, and asked how much is done."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_mllm_aug.schema import caption_column
from tests.conftest import picture_bytes
from tests.integration.command_line import NAME, Run, assert_one_line, environment, load


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Forty pictures, the fourth of which is none."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.png").write_bytes(b"?" if number == 3 else picture_bytes(number, (24, 20)))
    return folder


def test_a_killed_command_goes_on_and_gives_what_an_undisturbed_one_gives(
    run: Run, many: Path, random_llava: Path, tmp_path: Path
) -> None:
    words = ["caption", str(many), "--captioner", str(random_llava), "--shard-size", "4", "--batch-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_mllm_aug", *words, "--out", "out"],
        env=environment(tmp_path / "home"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        first = tmp_path / "out.run" / "random_llava" / "00000.parquet"
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    done = run(*words, "--out", "out", "--log-json", "log.jsonl")
    assert done.returncode == 0, done.stderr
    before = int(re.findall(r"out\.run: (\d+) of 10 shards finished before; going on", done.stdout)[0])
    assert before >= 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 10 - before
    assert f"{NAME}: 39 captioned, 1 failed" in done.stdout
    whole = run(*words, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    rows, expected = (load(tmp_path / name, "all", tmp_path / f"cache-{name}") for name in ("out", "whole"))
    assert rows.to_list() == expected.to_list()

    again = run(*words, "--out", "out")
    assert_one_line(again, 1, "out exists and is not empty", "The captions are safe in out.run", "--run-dir out.run")
    other = run(*words, "--out", "second", "--run-dir", "out.run", "--rule", "raw")
    assert_one_line(other, 2, "holds a run with other settings: shear.", "rule: sentence in the folder, raw now")
    second = run(*words, "--out", "second", "--run-dir", "out.run")
    assert second.returncode == 0, second.stderr
    assert "images/s" not in second.stdout, "nothing was captioned"
    staged = load(tmp_path / "second", NAME, tmp_path / "cache-second")
    assert staged["caption"][:] == expected[caption_column(NAME)][:]


def test_pieces_stage_nothing_and_the_whole_stages_what_they_made(
    run: Run, many: Path, random_llava: Path, tmp_path: Path
) -> None:
    words = ["caption", many, "--captioner", random_llava, "--shard-size", "4", "--out", "out"]
    done = run(*words, "--shard", "1/2")
    assert done.returncode == 0, done.stderr
    assert "--shard 1/2 is done; 5 of 10 shards are finished" in done.stdout
    assert "next: the same command without --shard" in done.stdout
    assert not (tmp_path / "out").exists()
    planned = run("plan", many, "--captioner", random_llava, "--shard-size", "4", "--out", "out", "--rows", "1000")
    assert planned.returncode == 0, planned.stderr
    assert "out.run: 5 of 10 shards finished" in planned.stdout
    assert "1,000 rows in 250 shards of 4" in planned.stdout
    assert re.search(rf"{NAME} +[\d.,]+ +[\d.]+ (s|min) +[\d.]+ MB +1 of 32", planned.stdout)
    done = run(*words, "--log-json", "log.jsonl", RANK="0", WORLD_SIZE="1")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["shard"] for line in lines] == [0, 2, 4, 6, 8]
    assert "staged in out: all (40 rows)" in done.stdout
    other = run(*words[:-1], "other", "--run-dir", "out.run", RANK="1", WORLD_SIZE="2")
    assert (other.returncode, other.stdout) == (0, ""), "one of several processes speaks and stages"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--shard", "2/2"], ["shard='2/2' must be i/n"]),
        (["--run-dir", "out/run"], ["--run-dir out/run is in --out out"]),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_work(
    run: Run, many: Path, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    done = run("caption", many, "--captioner", "tiny-llava", "--out", "out", *options)
    assert_one_line(done, 2, *parts)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


def test_accelerate_starts_two_processes_that_share_the_work(
    run: Run, many: Path, random_llava: Path, tmp_path: Path
) -> None:
    words = ["caption", str(many), "--captioner", str(random_llava), "--shard-size", "4", "--batch-size", "2"]
    # With --cpu it would start one process, whatever the number.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "hf_mllm_aug"]
    done = subprocess.run(
        [sys.executable, *launch, *words, "--out", "out", "--log-json", "log.jsonl"],
        env={**environment(tmp_path / "home"), "ACCELERATE_USE_CPU": "true"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("staged in out") == 1, "one process speaks for both"
    worked = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["shard"] for line in worked} == set(range(10))
    assert len({line["process"] for line in worked}) == 2
    whole = run(*words, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    rows, expected = (load(tmp_path / name, "all", tmp_path / f"cache-{name}") for name in ("out", "whole"))
    assert rows.to_list() == expected.to_list()
