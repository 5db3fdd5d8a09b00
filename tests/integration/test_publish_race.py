"""Eight publishers, one repository, and a Hub, a line and a power supply that fail; all in real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from hf_mllm_aug import save_configs
from hf_mllm_aug.loopback_hub import Fault, LoopbackHub
from tests.integration.test_publish import readme, revisions

CAPTIONERS = ["llava-1.5", "minigpt-4", "otter", "qwen-vl", "tiny-llava", "tiny-otter", "vlm.a", "vlm.b"]
VICTIM = "otter"
PUBLISH = """
name = {name!r}
push_to_hub({{name: rows((name,), n=300)[name]}}, "me/x", max_retries=8)
say()
"""
# Half of them in the way of the commits, half in that of what goes before.
FAULTS: list[tuple[str, int | str, dict[str, Any]]] = [
    ("/commit/", 409, {"skip": 1}),
    ("/commit/", 412, {"times": 2, "skip": 2}),
    ("/commit/", 429, {"retry_after": 1}),
    ("/commit/", 500, {"skip": 2}),
    ("/commit/", "cut", {"skip": 3}),
    ("/commit/", "cut-after", {"skip": 4}),
    ("/_lfs/", "cut", {"method": "PUT", "skip": 1}),
    ("/_lfs/", 500, {"method": "PUT", "skip": 3}),
    ("objects/batch", 429, {"retry_after": 1}),
    ("/tree/", "cut-half", {"skip": 3}),
    ("/revision/main$", 503, {"skip": 2}),
    ("resolve/", 500, {"skip": 2}),
]
HISTORY = """
from datasets import disable_progress_bars, get_dataset_config_names
disable_progress_bars()
states = []
for commit in HfApi().list_repo_commits("me/x", repo_type="dataset")[:-1]:
    at = commit.commit_id
    names = get_dataset_config_names("me/x", revision=at)
    states.append({name: load_dataset("me/x", name, split="train", revision=at)[5]["caption"] for name in names})
streamed = {name: len(list(load_dataset("me/x", name, split="train", streaming=True))) for name in states[0]}
say(states=states, streamed=streamed)
"""


def test_eight_publishers_at_once_all_arrive_whole_whatever_fails(hub: LoopbackHub, client: Any) -> None:
    hold = hub.faults.add(Fault("/_lfs/", "slow", method="PUT", seconds=60))
    victim = client.start(PUBLISH.format(name=VICTIM))
    _wait(lambda: hold.hits == 1 or victim.poll() is not None)  # its upload, the first of all, hangs from here on
    faults = [hub.inject(path, kind, **options) for path, kind, options in FAULTS]
    running = [client.start(PUBLISH.format(name=name)) for name in CAPTIONERS if name != VICTIM]
    _wait(lambda: len(revisions(hub)) > 1 or all(process.poll() is not None for process in running))
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    victim.communicate()
    running.append(client.start(PUBLISH.format(name=VICTIM)))
    for process in running:
        client.finish(process)

    assert hold.hits == 1, "nothing was killed in the middle of an upload"
    assert [fault for fault in faults if fault.hits < fault.times] == [], "these met nothing"
    assert max(hub.uploads.values()) == 1, "the bytes of an object were sent twice"
    assert len(revisions(hub)) == 1 + len(CAPTIONERS), "a release is one commit, retried or not"
    card = readme(hub)
    for name in CAPTIONERS:
        assert f'<tr id="config-{name}">' in card, name
    assert card.count("default: true") == 1

    answer = client(HISTORY)
    newest = {name: f"{name} 5" for name in CAPTIONERS}
    assert answer["states"][0] == newest
    assert answer["streamed"] == dict.fromkeys(CAPTIONERS, 300)
    assert [len(state) for state in answer["states"]] == list(range(len(CAPTIONERS), 0, -1)), "a config went missing"
    for state in answer["states"]:
        assert state == {name: newest[name] for name in state}


def test_only_what_is_missing_travels_again_after_a_kill(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    stage = """
import random
random.seed(0)
data = {"key": [str(i) for i in range(40_000)], "caption": [random.randbytes(150).hex() for _ in range(40_000)]}
save_configs({"noise": Dataset.from_dict(data)}, TMP + "/staged", max_shard_size="2MB")
say()
"""
    client(f"TMP = {str(tmp_path)!r}\n" + stage)
    shards = sorted((tmp_path / "staged" / "noise").glob("*.parquet"))
    assert len(shards) > 3
    publish = f'push_to_hub({str(tmp_path / "staged")!r}, "me/x", num_proc=1); say()'
    hold = hub.inject("/_lfs/", "slow", method="PUT", seconds=30, skip=2)
    process = client.start(publish)
    _wait(lambda: (hold.hits == 1 and sum(hub.uploads.values()) >= 2) or process.poll() is not None)
    process.kill()
    process.communicate()
    arrived = {path.rsplit("/", 1)[-1] for path in hub.uploads}
    assert 2 <= len(arrived) < len(shards), "it was not killed in the middle"
    assert len(revisions(hub)) == 1, "half a release is to be seen"
    bodies, sent = sum(hub.uploads.values()), hub.uploaded_bytes
    client(publish)
    assert sum(hub.uploads.values()) - bodies == len(shards) - len(arrived), (
        "other shards than the missing ones travelled"
    )
    sizes = {path.name: path.stat().st_size for path in shards}
    stored = {path.name: path.stat().st_size for path in hub.store.folder.iterdir() if path.name in arrived}
    assert hub.uploaded_bytes - sent == sum(sizes.values()) - sum(stored.values())
    assert max(hub.uploads.values()) == 1
    assert client('say(n=len(load_dataset("me/x", "noise", split="train")))')["n"] == 40_000


def test_hand_edited_card_survives_three_releases(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub(rows(), "me/x"); say()')
    title = next(line for line in readme(hub).splitlines() if line.startswith("# "))
    edits = {
        title: f"> Words before all marks.\n\n{title}\n\nWords under the title.",
        "## Limits": "## By hand\n\nWords between: a | b, `code`, <b>bold</b>.\n\n## Limits",
        "\npretty_name:": "\nextra_by_hand: [1, two]\nmy_contact: me@example.org\npretty_name:",
    }
    card = readme(hub)
    for old, new in edits.items():
        assert card.count(old) == 1, old
        card = card.replace(old, new)
    card += "\nWords after all marks.\n"
    client(f"""
HfApi().upload_file(path_or_fileobj={card!r}.encode(), path_in_repo="README.md", repo_id="me/x", repo_type="dataset")
say()
""")
    for release in (
        '{"otter": rows(mark="2 ")["otter"]}',
        'rows(("tiny-llava", "otter", "vlm.a"), mark="3 ")',
        "rows(n=9)",
    ):
        client(f'push_to_hub({release}, "me/x"); say()')
        now = readme(hub)
        for part in (
            "> Words before all marks.",
            "Words under the title.",
            "Words between: a | b, `code`, <b>bold</b>.",
            "Words after all marks.",
            "\nextra_by_hand:\n- 1\n- two\n",
            "\nmy_contact: me@example.org\n",
        ):
            assert now.count(part) == 1, (release, part)
        places = [now.index(part) for part in ("Words before", title, "Words under", "Words between", "Words after")]
        assert places == sorted(places), release
    assert len(revisions(hub)) == 6
    assert client('say(n=len(load_dataset("me/x", "otter", split="train")))')["n"] == 9


def _wait(done: Any) -> None:
    until = time.monotonic() + 90
    while not done():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def test_staged_bytes_do_not_depend_on_who_writes_them(client: Any, tmp_path: Path) -> None:
    """Why a publisher that starts again finds its objects on the Hub: equal rows are equal bytes, in any process."""
    from datasets import Dataset

    rows = {"key": ["a", "b"], "caption": ["x", None]}
    here = save_configs({"raw": Dataset.from_dict(rows)}, tmp_path / "here")
    client(f'save_configs({{"raw": Dataset.from_dict({rows!r})}}, {str(tmp_path / "there")!r}); say()')
    one, two = ((folder / "raw" / "train-00000-of-00001.parquet").read_bytes() for folder in (here, tmp_path / "there"))
    assert one == two
