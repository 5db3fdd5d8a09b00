"""The scripts of the data sets, in processes of their own: miniatures of the published forms in, a Hub data set out."""

from __future__ import annotations

import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, load_dataset

import hf_mllm_aug
from hf_mllm_aug import Augment
from hf_mllm_aug.loopback_hub import LoopbackHub
from tests.integration.command_line import assert_one_line
from tests.integration.conftest import TOKEN, Client
from tests.warm_python import python
from tests.web_server import WebServer, answer

ROOT = Path(hf_mllm_aug.__file__).parents[1]
GONE = 3  # the picture that is not there any more
FETCHED = ("--captioner", "tiny-llava", "--allow-private")

READ_BACK = """
from huggingface_hub import DatasetCard
found = {}
for name in sys.argv[1:]:
    rows = load_dataset("me/aug", name, split="train")
    if "image" in rows.column_names:
        sizes = [picture and list(picture.size) for picture in rows["image"]]
        rows = rows.remove_columns("image").add_column("image", [json.dumps(size) for size in sizes])
    found[name] = rows.to_list()
say(configs=found, card=DatasetCard.load("me/aug", repo_type="dataset").content)
"""


@pytest.fixture
def web(pictures: list[bytes]) -> Iterator[WebServer]:
    """Serves the pictures but one."""
    with WebServer() as server:
        server.routes = {f"/{i}.png": answer(data) for i, data in enumerate(pictures) if i != GONE}
        yield server


def command(name: str, *words: str | Path) -> list[str]:
    return [*python(), str(ROOT / "dataset_scripts" / f"{name}.py"), *map(str, words)]


def run(name: str, *words: str | Path, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    done = command(name, *words)
    return subprocess.run(done, env=env, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def published(client: Client, *configs: str) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The rows of configs as a stranger reads them, and the card."""
    process = client.start(f"sys.argv[1:] = {list(configs)!r}\n{READ_BACK}")
    answer = client.finish(process)
    return answer["configs"], answer["card"]


def staged(folder: Path, cache: Path, config: str = "all") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_dataset(str(folder), config, split="train", cache_dir=str(cache)).to_list()
    return rows


def captions_of(pictures: list[bytes | None], captioner: str | Path = "tiny-llava") -> list[str | None]:
    """What `map` makes of the pictures."""
    augment = Augment(str(captioner))
    rows = Dataset.from_dict({"image": [None if data is None else {"bytes": data, "path": None} for data in pictures]})
    done = rows.map(augment, batched=True, features=augment.features(rows.features))
    return list(done[augment.members[0].caption_column])


def caption_list(web: WebServer, path: Path, count: int) -> Path:
    path.write_text("".join(f"raw caption {i}\t{web.url(f'/{i}.png')}\n" for i in range(count)))
    return path


def without_one(pictures: list[bytes]) -> list[bytes | None]:
    return [None if i == GONE else data for i, data in enumerate(pictures)]


def test_cc3m_from_its_list_of_addresses(
    web: WebServer, pictures: list[bytes], client: Client, hub: LoopbackHub, tmp_path: Path
) -> None:
    listed = caption_list(web, tmp_path / "Train_GCC-training.tsv", 10)
    with listed.open("a") as file:
        file.write(f"the second caption of a picture\t{web.url('/1.png')}\n")
        file.write(f"behind the last sample\t{web.url('/12.png')}\n")
    done = run("cc3m", listed, "me/aug", *FETCHED, "--max-samples", "11", env=client.env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fetched: 10 ok, 1 http_error\ntiny-llava: 10 captioned, 1 failed" in done.stdout
    assert f"published all, raw, tiny-llava: {hub.url}/datasets/me/aug/commit/" in done.stdout
    assert hub.count("POST", "/me/aug/commit/") == 1

    configs, card = published(client, "all", "raw", "tiny-llava")
    expected = captions_of([*without_one(pictures[:10]), pictures[1]])
    assert [row["caption"] for row in configs["raw"]] == [
        *(f"raw caption {i}" for i in range(10)),
        "the second caption of a picture",
    ]
    assert [row["url"] for row in configs["raw"]][:2] == [web.url("/0.png"), web.url("/1.png")]
    assert [row["caption"] for row in configs["tiny-llava"]] == expected
    assert len({row["key"] for row in configs["raw"]}) == 11, "two captions of a picture share a key"
    assert [row["key"] for row in configs["all"]] == [row["key"] for row in configs["tiny-llava"]]
    gone = configs["all"][GONE]
    assert gone["caption_tiny_llava"] is None
    assert "404" in gone["reason"]
    assert gone["error_tiny_llava"] == f"not fetched: {gone['reason']}"
    assert all(row["error_tiny_llava"] is None for row in configs["all"] if row is not gone)
    assert "1 × not fetched" in card
    assert "image" not in gone
    assert web.count("/12.png") == 0, "a row that was not wanted was fetched"

    data = yaml.safe_load(card.split("---\n")[1])
    assert (data["license"], data["license_name"]) == ("other", "conceptual-captions")
    assert data["source_datasets"] == ["google-research-datasets/conceptual_captions"]
    assert [item["name"] for item in data["hf_mllm_aug"]["captioners"]] == ["tiny-llava"]
    command_line = "uv run cc3m.py Train_GCC-training.tsv me/aug --captioner tiny-llava --max-samples 11"
    assert command_line in card.splitlines()
    assert re.search(
        r"^Plan of the run: 11 rows in 1 shard of 1,024, source fingerprint [0-9a-f]{16}; hf-mllm-aug \S+, torch ",
        html.unescape(card),
        re.MULTILINE,
    )
    assert "sharma2018conceptual" in card
    assert str(tmp_path) not in card
    assert TOKEN not in card + done.stdout + done.stderr


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """Three tars as img2dataset writes them; a picture is cut off."""
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(3):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard * 4, shard * 4 + 4):
                url = f"https://example.org/{i}.png"
                record = {"url": url, "key": f"{i:09d}", "caption": f"raw caption {i}", "status": "success"}
                data = pictures[i][:100] if i == GONE else pictures[i]
                for suffix, content in (
                    ("jpg", data),
                    ("txt", record["caption"].encode()),
                    ("json", json.dumps(record).encode()),
                ):
                    member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def test_cc12m_from_tars_by_two_captioners_with_its_pictures(
    tars: Path, pictures: list[bytes], random_llava: Path, client: Client, hub: LoopbackHub, tmp_path: Path
) -> None:
    words = ["--captioner", "tiny-llava", "--captioner", str(random_llava), "--images", "embed"]
    words += ["--shuffle", "--seed", "7", "--keep-unsheared"]
    done = run("cc12m", tars, "me/aug", *words, env=client.env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    configs, card = published(client, "all", "raw", "tiny-llava", "random-llava")
    numbers = [int(row["caption"].split()[-1]) for row in configs["raw"]]
    assert sorted(numbers) == list(range(12))
    assert numbers != list(range(12))
    for name, captioner in (("tiny-llava", "tiny-llava"), ("random-llava", random_llava)):
        expected = captions_of(without_one(pictures[:12]), captioner)
        assert [row["caption"] for row in configs[name]] == [expected[i] for i in numbers], name
    assert [json.loads(row["image"]) is not None for row in configs["all"]] == [i != GONE for i in numbers]
    assert all(row["generated_tiny_llava"] for row in configs["all"] if row["caption_tiny_llava"])
    assert "changpinyo2021cc12m" in card
    assert "--captioner random-llava --keep-unsheared --shuffle --seed 7 --images embed" in card


def test_yfcc15m_from_openais_list_and_the_metadata(
    web: WebServer, pictures: list[bytes], client: Client, tmp_path: Path
) -> None:
    lines = []
    for i in range(6):
        columns = [""] * 25
        columns[:3] = [str(i), str(5000 + i), f"{i:032x}"]
        columns[8], columns[9], columns[16] = f"Title+{i}", "%3Cb%3Eand%3C%2Fb%3E+more", web.url(f"/{i}.png")
        lines.append("\t".join(columns) + "\n")
    (tmp_path / "yfcc100m_dataset").write_text("".join(lines))
    photos = tmp_path / "yfcc100m_subset_data.tsv"
    photos.write_text("".join(f"{i}\t{5000 + i}\t{i:032x}\n" for i in (1, 2, GONE, 5)))
    words = ["--metadata", "yfcc100m_dataset", "--create-pr", "--private"]

    refused = run("yfcc15m", photos, "me/aug", *FETCHED, env=client.env, cwd=tmp_path)
    assert_one_line(refused, 2, "lists photos and has no captions. Pass metadata=")

    done = run("yfcc15m", photos, "me/aug", *FETCHED, *words, env=client.env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/datasets/me/aug/discussions/1" in done.stdout
    release = tmp_path / "aug.work" / "release"
    rows = staged(release, tmp_path / "cache")
    assert [row["key"] for row in rows] == ["5001", "5002", "5003", "5005"]
    assert rows[0]["caption"] == "Title 1 and more"
    chosen = [without_one(pictures)[i] for i in (1, 2, GONE, 5)]
    assert [row["caption_tiny_llava"] for row in rows] == captions_of(chosen)
    card = (release / "README.md").read_text()
    assert "creative-commons-per-photo" in card
    assert "--metadata yfcc100m_dataset" in card


@pytest.mark.soak
def test_pieces_and_then_the_whole_are_one_run(tars: Path, tmp_path: Path, hub_env: dict[str, str]) -> None:
    words = ["--captioner", "tiny-llava", "--streaming"]
    whole = run("cc12m", tars, "me/aug", *words, "--dry-run", "--work-dir", "whole", env=hub_env, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert "dry run: nothing was published; next: hf-mllm-aug publish whole/release me/aug" in whole.stdout
    for piece in ("1/2", "0/2"):
        part = run("cc12m", tars, "me/aug", *words, "--shard", piece, "--work-dir", "w", env=hub_env, cwd=tmp_path)
        assert part.returncode == 0, part.stderr
        assert f"piece {piece} is done; {1 if piece == '1/2' else 3} of 3 shards are finished" in part.stdout
        assert not (tmp_path / "w" / "release").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "run").rglob("*.parquet")}
    last = run("cc12m", tars, "me/aug", *words, "--dry-run", "--resume", "--work-dir", "w", env=hub_env, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished shard was done again"
    parts = [staged(tmp_path / folder / "release", tmp_path / folder / "cache") for folder in ("w", "whole")]
    assert parts[0] == parts[1]
    assert [row["caption"] for row in parts[0]] == [f"raw caption {i}" for i in range(12)]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(
    web: WebServer, pictures: list[bytes], client: Client, hub: LoopbackHub, tmp_path: Path
) -> None:
    listed = caption_list(web, tmp_path / "list.tsv", 20)
    words = [str(listed), "me/aug", *FETCHED, "--shard-size", "2", "--batch-size", "1"]
    captioned = tmp_path / "aug.work" / "run" / "tiny_llava"
    process = subprocess.Popen(command("cc3m", *words), env=client.env, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while len(list(captioned.glob("*.parquet"))) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in captioned.glob("*.parquet")}
    assert 2 <= len(finished) < 10, "killed too late to show anything"
    asked = web.count("/0.png")

    refused = run("cc3m", *words, env=client.env, cwd=tmp_path)
    assert_one_line(refused, 1, "aug.work has work in it already: pass --resume")
    done = run("cc3m", *words, "--resume", env=client.env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert web.count("/0.png") == asked, "a picture that is kept was fetched again"
    configs, _ = published(client, "tiny-llava")
    assert [row["caption"] for row in configs["tiny-llava"]] == captions_of(without_one(pictures))
    again = run("cc3m", *words, "--resume", env=client.env, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_of_several_processes_that_share_the_work_one_publishes(
    tars: Path, client: Client, hub: LoopbackHub, tmp_path: Path
) -> None:
    words = [str(tars), "me/aug", "--captioner", "tiny-llava", "--shard-size", "3"]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            command("cc12m", *words),
            env={**client.env, "RANK": str(rank), "WORLD_SIZE": "2"},
            cwd=tmp_path,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "published all, raw, tiny-llava" in said[0][0]
    assert said[1][0] == ""
    assert hub.count("POST", "/me/aug/commit/") == 1


def test_other_settings_are_refused_in_one_work_folder(tars: Path, tmp_path: Path, hub_env: dict[str, str]) -> None:
    words = [str(tars), "me/aug", "--captioner", "tiny-llava", "--max-samples", "2", "--dry-run", "--resume"]
    first = run("cc12m", *words, env=hub_env, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert_one_line(run("cc12m", *words, "--rule", "raw", env=hub_env, cwd=tmp_path), 2, "shear")


def test_what_failed_is_tried_again_when_asked(
    web: WebServer, pictures: list[bytes], tmp_path: Path, hub_env: dict[str, str]
) -> None:
    web.routes["/1.png"] = answer(b"", 503)
    words = [str(caption_list(web, tmp_path / "list.tsv", 3)), "me/aug", *FETCHED, "--dry-run", "--resume"]
    first = run("cc3m", *words, env=hub_env, cwd=tmp_path)
    assert "tiny-llava: 2 captioned, 1 failed\n  1 x not fetched: " in first.stdout, first.stderr
    web.routes["/1.png"] = answer(pictures[1])
    second = run("cc3m", *words, "--retry-errors", env=hub_env, cwd=tmp_path)
    assert "tiny-llava: 3 captioned, 0 failed" in second.stdout, second.stderr
    assert web.count("/0.png") == 1
    rows = staged(tmp_path / "aug.work" / "release", tmp_path / "cache")
    assert [row["caption_tiny_llava"] for row in rows] == captions_of(list(pictures[:3]))


def test_loopback_addresses_are_not_fetched_unless_that_is_allowed(
    web: WebServer, tmp_path: Path, hub_env: dict[str, str]
) -> None:
    listed = caption_list(web, tmp_path / "list.tsv", 2)
    done = run("cc3m", listed, "me/aug", "--captioner", "tiny-llava", "--dry-run", env=hub_env, cwd=tmp_path)
    assert_one_line(done, 1, "tiny-llava captioned none of 2 pictures")
    assert web.requests == []


def test_wrong_usage_is_one_line_and_help_shows_an_example(tmp_path: Path, hub_env: dict[str, str]) -> None:
    wrong = run("cc3m", "list.tsv", "me/aug", "--max-samples", "none", env=hub_env, cwd=tmp_path)
    assert_one_line(wrong, 2, "argument --max-samples", "See: cc3m.py --help")
    missing = run("cc3m", "list.tsv", "me/aug", "--captioner", "tiny-llava", env=hub_env, cwd=tmp_path)
    assert_one_line(missing, 2, "list.tsv")
    helped = run("cc12m", "--help", env=hub_env, cwd=tmp_path)
    assert helped.returncode == 0
    assert "hf jobs uv run --flavor" in helped.stdout
    assert "--captioner" in helped.stdout


@pytest.mark.parametrize("name", ["cc3m", "cc12m", "yfcc15m"])
def test_hf_jobs_takes_the_script_with_the_settings_of_its_header(name: str, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HUGGING"))}
    env |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "200"}
    hf = Path(sys.executable).with_name("hf")
    if not hf.exists():
        pytest.skip("huggingface_hub's command is not installed beside this Python")
    words = [str(hf), "jobs", "uv", "run", "--dry-run", f"dataset_scripts/{name}.py", "a/b", "me/aug", "--shuffle"]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for part in ("a/b me/aug --shuffle", "a10g-large (from script)", "24h (from script)", "HF_TOKEN"):
        assert part in done.stdout, part
