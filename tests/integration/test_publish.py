"""A release is whole or not there, whatever the Hub, the line and other publishers do; all through the real client."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hf_mllm_aug.loopback_hub import LoopbackHub

READ_BACK = """
configs = rows()
back = {name: load_dataset("me/x", name, split="train") for name in configs}
streamed = {name: list(load_dataset("me/x", name, split="train", streaming=True)) for name in configs}
say(equal=[name for name in configs if back[name].to_list() == configs[name].to_list()],
    streamed=[name for name in configs if streamed[name] == configs[name].to_list()],
    default=load_dataset("me/x", split="train").column_names)
"""
NAMES = ["all", "raw", "tiny-llava", "otter"]


def revisions(hub: LoopbackHub) -> list[str]:
    return [commit.oid for commit in hub.store.get("me/x").history("main")]


def readme(hub: LoopbackHub, revision: str = "main") -> str:
    blob = hub.store.get("me/x").resolve(revision).tree["README.md"]
    return hub.store.blob_path(blob.sha256).read_text("utf-8")


def files(hub: LoopbackHub, revision: str = "main") -> list[str]:
    return sorted(hub.store.get("me/x").resolve(revision).tree)


def test_published_configs_load_and_equal_what_was_pushed(hub: LoopbackHub, client: Any) -> None:
    answer = client("""
commit = push_to_hub(rows(), "me/x", commit_message="First")
say(oid=commit.oid, url=commit.commit_url)
""")
    assert answer["oid"] == revisions(hub)[0]
    assert len(revisions(hub)) == 2, "a release is one commit"
    figures = [path for path in files(hub) if path.startswith("figures/")]
    shards = sorted(f"{n}/train-00000-of-00001.parquet" for n in NAMES)
    assert files(hub) == sorted([".gitattributes", "README.md", *figures, *shards])
    back = client(READ_BACK)
    assert back["equal"] == NAMES
    assert back["streamed"] == NAMES
    assert back["default"][:3] == ["key", "url", "caption"]
    assert not list(Path(client.env["TMPDIR"]).glob("hf-mllm-aug-*")), "the staging folder stayed"


def test_code_in_the_card_runs(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub(rows(), "me/x"); say()')
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme(hub), re.DOTALL))
    assert 'load_dataset("me/x", "tiny-llava", split="train")' in code
    answer = client(code + "\nsay(first=captions[0]['caption'])\n")
    assert answer["first"] == "tiny-llava 0"


def test_pictures_travel_when_asked(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    answer = client(f"""
import PIL.Image
from datasets import Features, Image, Value
folder = {str(tmp_path)!r}
for i in range(3):
    PIL.Image.new("RGB", (9, 7), (i * 40, 10, 20)).save(f"{{folder}}/{{i}}.png")
open(folder + "/3.png", "w").write("no picture")
features = Features({{"key": Value("string"), "image": Image(decode=False), "caption": Value("string")}})
data = {{"key": list("abcde"), "image": [f"{{folder}}/{{i}}.png" for i in range(4)] + [None], "caption": list("vwxyz")}}
push_to_hub(Dataset.from_dict(data, features=features), "me/x", images="embed")
back = load_dataset("me/x", "all", split="train")
streamed = list(load_dataset("me/x", "all", split="train", streaming=True))
say(pixels=[row["image"] and (list(row["image"].getpixel((0, 0))), list(row["image"].size)) for row in back],
    streamed=[row["image"] and list(row["image"].getpixel((0, 0))) for row in streamed],
    paths=[row["path"] for row in back.cast_column("image", Image(decode=False))[:3]["image"]],
    raw=load_dataset("me/x", "raw", split="train").column_names)
""")
    assert answer["pixels"] == [[[i * 40, 10, 20], [9, 7]] for i in range(3)] + [None, None]
    assert answer["streamed"] == [[i * 40, 10, 20] for i in range(3)] + [None, None]
    assert answer["paths"] == ["0.png", "1.png", "2.png"]
    assert answer["raw"] == ["key", "url", "caption"]


def test_second_release_of_one_config_leaves_the_others(hub: LoopbackHub, client: Any) -> None:
    client("""
card = None
from hf_mllm_aug import build_card
card = build_card(rows(), repo_id="me/x", pretty_name="Mine", license="cc-by-4.0")
push_to_hub(rows(), "me/x", card=card)
api = HfApi()
text = str(card).replace("## Limits", "## By hand\\n\\nMy own words.\\n\\n## Limits")
api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="me/x", repo_type="dataset")
say()
""")
    before = files(hub)
    answer = client("""
configs = rows(("otter", "llava-1.5"), n=30, mark="new ")
push_to_hub({"otter": configs["otter"], "llava-1.5": configs["llava-1.5"]}, "me/x")
load = lambda name: load_dataset("me/x", name, split="train")
old = rows()
say(otter=load("otter")["caption"][0], llava=len(load("llava-1.5")), n=len(load("otter")),
    kept=[name for name in old if name != "otter" and load(name).to_list() == old[name].to_list()],
    default=len(load_dataset("me/x", split="train").column_names))
""")
    assert (answer["otter"], answer["n"], answer["llava"]) == ("new otter 0", 30, 30)
    assert answer["kept"] == ["all", "raw", "tiny-llava"]
    assert answer["default"] == 7, "the default is no longer `all`"
    assert set(before) < set(files(hub))
    card = readme(hub)
    assert "My own words." in card
    assert card.count('<tr id="config-') == 5
    assert re.search(r'<tr id="config-otter">.*<td>30</td>', card)
    assert "pretty_name: Mine" in card
    assert "license: cc-by-4.0" in card


def test_stale_files_of_the_same_configs_go_in_the_same_commit(hub: LoopbackHub, client: Any) -> None:
    answer = client(
        """
from hf_mllm_aug.publish import plan_release
big = rows(n=25_000)
folder = save_configs(big, "{tmp}/a", max_shard_size=100_000)
push_to_hub(folder, "me/x")
small = save_configs(rows(n=20), "{tmp}/b")
plan = [str(step) for step in plan_release(small, "me/x")]
push_to_hub(small, "me/x")
again = [step.action for step in plan_release(small, "me/x")]
offline = {step.action for step in plan_release(small)}
say(plan=plan, again=again, offline=sorted(offline), n=len(load_dataset("me/x", "otter", split="train")))
""".replace("{tmp}", client.env["TMPDIR"])
    )
    assert answer["n"] == 20
    assert sorted(path for path in files(hub) if path.startswith("otter/")) == ["otter/train-00000-of-00001.parquet"]
    assert len(revisions(hub)) == 3
    assert any(line.startswith("delete") and "otter/" in line for line in answer["plan"])
    assert set(answer["again"]) == {"keep"}
    assert answer["offline"] == ["add"]


FAULTS: list[tuple[str, int | str, dict[str, Any]]] = [
    ("/commit/", 409, {}),
    ("/commit/", 412, {"times": 2}),
    ("/commit/", 429, {"retry_after": 1}),
    ("/commit/", 500, {}),
    ("/commit/", "cut", {}),
    ("/commit/", "cut-after", {}),
    ("/_lfs/", "cut", {"method": "PUT", "skip": 1}),
    ("/_lfs/", 500, {"method": "PUT"}),
    ("objects/batch", 503, {}),
    ("validate-yaml", 502, {}),
    ("/tree/", "cut-half", {}),
    ("resolve/", 500, {}),
    ("/revision/main$", "slow", {"seconds": 0.5, "times": 3}),
    ("/revision/main$", 503, {}),
]


def test_faults_are_overcome_and_no_commit_was_ever_broken(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub({"old": rows()["raw"]}, "me/x"); say()')
    sent = [{"path": path, "kind": kind, **options} for path, kind, options in FAULTS]
    client(f"""
import urllib.request
for number, fault in enumerate({sent!r}):
    body = json.dumps(fault).encode()
    urllib.request.urlopen(urllib.request.Request(HfApi().endpoint + "/_faults", body, method="POST"))
    push_to_hub(rows(mark=f"{{number}} "), "me/x")
say()
""")
    unmet = [fault for fault in hub.faults.waiting() if fault.hits < fault.times]
    assert not unmet, "these met nothing"
    assert len(revisions(hub)) == 2 + len(FAULTS), "a retry made a commit of its own"
    assert max(hub.uploads.values()) == 1, "something was uploaded twice"
    answer = client(
        """
from datasets import disable_progress_bars
disable_progress_bars()
states = []
for commit in HfApi().list_repo_commits("me/x", repo_type="dataset")[:-1]:
    at = {"revision": commit.commit_id, "split": "train"}
    states.append([load_dataset("me/x", "old", **at)[0]["caption"]])
    if len(states) < RELEASES:
        loaded = [load_dataset("me/x", name, **at, streaming=True) for name in ("all", "tiny-llava", "otter")]
        states[-1] += [next(iter(rows)).get("caption_otter") or next(iter(rows))["caption"] for rows in loaded]
say(states=states)
""".replace("RELEASES", str(1 + len(FAULTS)))
    )
    expected = [["raw 0", f"{n} otter 0", f"{n} tiny-llava 0", f"{n} otter 0"] for n in range(len(FAULTS))]
    assert answer["states"] == [*reversed(expected), ["raw 0"]]


def test_interrupted_release_leaves_the_old_head_loadable_and_resumes(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub(rows(), "me/x"); say()')
    head = revisions(hub)
    hub.inject("/commit/", "cut", times=99)
    answer = client("""
try:
    push_to_hub(rows(n=50), "me/x", max_retries=1)
except PublishError as error:
    say(error=str(error))
""")
    assert "cannot reach the Hub" in answer["error"]
    assert "\n" not in answer["error"]
    assert revisions(hub) == head
    assert client(READ_BACK)["equal"] == NAMES
    hub.faults.clear()
    folder = re.search(r"push_to_hub\('([^']+)'", answer["error"])
    assert folder, answer["error"]
    sent = hub.uploaded_bytes
    client(f'push_to_hub({folder[1]!r}, "me/x"); say()')
    assert hub.uploaded_bytes == sent, "the resumed release uploaded again what had arrived"
    assert client('say(n=len(load_dataset("me/x", "raw", split="train")))')["n"] == 50


def test_killed_publisher_leaves_the_old_head(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub(rows(), "me/x"); say()')
    head = revisions(hub)
    sent = sum(hub.uploads.values())
    hub.inject("/commit/", "slow", seconds=3)
    process = client.start('push_to_hub(rows(n=50), "me/x"); say()')
    while sum(hub.uploads.values()) == sent and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert revisions(hub)[-2:] == head, "history was rewritten"
    assert client('say(n=len(load_dataset("me/x", "otter", split="train")))')["n"] in (20, 50)


def test_two_publishers_at_once_lose_nothing(hub: LoopbackHub, client: Any) -> None:
    hub.inject("/commit/", 412, times=2)
    code = 'push_to_hub({{"{0}": rows(("{0}",))["{0}"]}}, "me/x"); say()'
    running = [client.start(code.format(name)) for name in ("otter", "qwen-vl", "minigpt-4")]
    for process in running:
        client.finish(process)
    answer = client("""
api = HfApi()
commits = [c.commit_id for c in api.list_repo_commits("me/x", repo_type="dataset")]
from datasets import get_dataset_config_names
states = []
for commit in commits[:-1]:
    names = get_dataset_config_names("me/x", revision=commit)
    states.append({name: len(load_dataset("me/x", name, split="train", revision=commit)) for name in names})
say(states=states)
""")
    assert set(answer["states"][0]) == {"otter", "qwen-vl", "minigpt-4"}
    assert [len(state) for state in answer["states"]] == [3, 2, 1]
    assert all(n == 20 for state in answer["states"] for n in state.values())
    assert readme(hub).count("default: true") == 1
    assert max(hub.uploads.values()) == 1


def test_a_release_that_is_there_already_is_told_of_though_another_follows(hub: LoopbackHub, client: Any) -> None:
    """As when the answer to a commit was lost: the next try finds it, and somebody commits at that moment."""
    answer = client(
        """
from huggingface_hub import CommitOperationAdd
from hf_mllm_aug.hub_branch import HubBranch
first = push_to_hub(rows(("otter",)), "me/x").oid
tree = HubBranch.tree
others = []

def then_another_commits(branch, commit):
    found = tree(branch, commit)
    if not others:
        card = branch.read(commit, "README.md") + b"\\nWritten by another.\\n"
        added = [CommitOperationAdd("README.md", card)]
        others.append(HfApi().create_commit("me/x", added, commit_message="Another", repo_type="dataset").oid)
    return found

HubBranch.tree = then_another_commits
again = push_to_hub(rows(("otter",)), "me/x")
say(first=first, others=others, again=again.oid, url=again.commit_url)
"""
    )
    first, (other,) = answer["first"], answer["others"]
    assert answer["again"] == first
    assert answer["url"] == f"{hub.url}/datasets/me/x/commit/{first}"
    assert {first, other} <= set(revisions(hub))
    assert "Written by another." in readme(hub)


def test_pull_requests_and_branches(hub: LoopbackHub, client: Any) -> None:
    answer = client("""
push_to_hub(rows(), "me/x")
pull = push_to_hub(rows(mark="pr "), "me/x", create_pr=True)
push_to_hub(rows(mark="dev "), "me/x", revision="dev")
first = lambda revision: load_dataset("me/x", "otter", split="train", revision=revision)["caption"][0]
say(pr=pull.pr_url, revision=pull.pr_revision, texts=[first("main"), first(pull.pr_revision), first("dev")])
""")
    assert answer["pr"].endswith("/datasets/me/x/discussions/1")
    assert answer["texts"] == ["otter 0", "pr otter 0", "dev otter 0"]
    hub.inject("/commit/", "cut-after")
    answer = client("""
try:
    push_to_hub(rows(mark="lost "), "me/x", create_pr=True)
except PublishError as error:
    say(error=str(error))
""")
    assert "Look whether it is there" in answer["error"]
    assert hub.store.get("me/x").pull_requests == 2, "a second pull request was opened"


def test_a_broken_upload_is_no_broken_pull_request(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub(rows(), "me/x"); say()')
    hub.inject("/_lfs/", "cut", method="PUT", times=1)
    answer = client('say(pr=push_to_hub(rows(mark="pr "), "me/x", create_pr=True).pr_url)')
    assert answer["pr"].endswith("/datasets/me/x/discussions/1")
    assert hub.store.get("me/x").pull_requests == 1
    assert not [fault for fault in hub.faults.waiting() if fault.hits < fault.times], "the fault met nothing"
    assert max(hub.uploads.values()) == 1, "something was uploaded twice"


def test_verification_finds_what_did_not_arrive(hub: LoopbackHub, client: Any) -> None:
    answer = client("""
from hf_mllm_aug.release import Release
commit = Release._commit
def forget(self, message, description):
    info = commit(self, message, description)
    return self.branch.api.delete_file("raw/train-00000-of-00001.parquet", "me/x", repo_type="dataset")
Release._commit = forget
try:
    push_to_hub(rows(), "me/x")
except PublishError as error:
    say(error=str(error))
""")
    assert "does not hold what was sent: raw/train-00000-of-00001.parquet" in answer["error"]


ERRORS = """
import time
start = time.monotonic()
try:
    push_to_hub(rows(), {repo!r}, **{options})
except PublishError as error:
    say(error=str(error), seconds=time.monotonic() - start)
"""


def test_wrong_token_is_one_clear_line_without_the_token(hub: LoopbackHub, client: Any) -> None:
    code = ERRORS.format(repo="me/x", options={"token": "hf_wrongwrongwrongwrongwrong"})
    answer = client(code)
    assert "log in with `hf auth login`" in answer["error"]
    assert "Nothing was published" in answer["error"]
    assert "\n" not in answer["error"]
    assert "hf_wrong" not in answer["error"] + answer["stderr"]
    assert "me/x" not in hub.store.repos
    hub.inject("/commit/", 403, times=9)
    assert "refused the token (403)" in client(ERRORS.format(repo="me/x", options={}))["error"]
    assert len(revisions(hub)) == 1


def test_hub_that_is_down_is_one_clear_line(client: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    answer = client(ERRORS.format(repo="me/x", options={}), HF_ENDPOINT=address)
    assert f"cannot reach the Hub at {address}" in answer["error"]
    assert "Nothing was published" in answer["error"]
    assert "resumes it" in answer["error"]
    assert "\n" not in answer["error"]
    assert answer["seconds"] < 15
    answer = client(ERRORS.format(repo="me/x", options={}), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in answer["error"]


def test_impossible_repository_names_are_refused_before_any_work(hub: LoopbackHub, client: Any) -> None:
    answer = client("""
errors = []
for name in ("a/b/c", "me/--x", "", "me/x.git", "é"):
    try:
        push_to_hub(rows(), name)
    except PublishError as error:
        errors.append(str(error))
say(errors=errors)
""")
    assert len(answer["errors"]) == 5
    assert all("cannot name a repository" in error for error in answer["errors"])
    assert not hub.requests


def test_name_without_owner_goes_to_the_user_of_the_token(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub(rows(), "mine"); say()')
    assert list(hub.store.repos) == ["local/mine"]


def test_endpoint_of_a_running_process_can_be_named(hub: LoopbackHub, hub_env: dict[str, str], client: Any) -> None:
    code = f'say(url=push_to_hub(rows(), "me/x", endpoint={hub.url!r}).commit_url)'
    answer = client(code, HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["url"].startswith(f"{hub.url}/datasets/me/x/commit/")
    assert hub_env["HF_TOKEN"] not in answer["stderr"]


def test_import_stays_light(hub_env: dict[str, str]) -> None:
    code = "import sys, hf_mllm_aug.publish, hf_mllm_aug.card; print({'torch', 'datasets'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], env=hub_env, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
