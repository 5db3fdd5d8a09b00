"""Some configs of a repository: added, renewed, compared, deleted; and who may read; through the real client."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from hf_mllm_aug.loopback_hub import LoopbackHub
from tests.integration.test_publish import files, readme, revisions


def metadata(hub: LoopbackHub) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(readme(hub).split("---\n")[1])
    return data


@pytest.fixture
def published(hub: LoopbackHub, client: Any) -> LoopbackHub:
    """A repository of four configs, with words of a person in its card and a figure of theirs."""
    client("""
push_to_hub(rows(), "me/x")
api = HfApi()
at = {"repo_id": "me/x", "repo_type": "dataset"}
text = api.hf_hub_download("me/x", "README.md", repo_type="dataset")
text = open(text).read().replace("## Limits", "## By hand\\n\\nMy own words about otter.\\n\\n## Limits")
api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", **at)
api.upload_file(path_or_fileobj=b"<svg/>", path_in_repo="figures/logo.svg", **at)
api.upload_file(path_or_fileobj=b"terms", path_in_repo="LICENSE", **at)
say()
""")
    return hub


def test_one_config_of_a_mapping_leaves_the_others_and_says_that_all_is_older(
    published: LoopbackHub, client: Any
) -> None:
    before = published.store.get("me/x").resolve("main").tree
    answer = client("""
push_to_hub(rows(mark="new "), "me/x", config_names=["otter"])
say(otter=load_dataset("me/x", "otter", split="train")["caption"][0])
""")
    assert answer["otter"] == "new otter 0"
    assert "'all' lacks the new captions of 'otter'" in answer["stderr"]
    after = published.store.get("me/x").resolve("main").tree
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.startswith("figures/otter-")} == {
        "README.md",
        "otter/train-00000-of-00001.parquet",
    }
    assert "My own words about otter." in readme(published)
    note = r'<p id="newer-than-all">.*<code>otter</code>'
    assert re.search(note, readme(published))
    assert metadata(published)["hf_mllm_aug"]["newer_than_all"] == ["otter"]

    client('push_to_hub({"vlm.b": rows(("vlm.b",))["vlm.b"]}, "me/x"); say()')
    assert metadata(published)["hf_mllm_aug"]["newer_than_all"] == ["otter", "vlm.b"], "the older note was forgotten"
    client('push_to_hub({"otter": rows(mark="new ")["otter"]}, "me/x"); say()')
    assert readme(published).count("newer-than-all") == 1
    client('push_to_hub(rows(("tiny-llava", "otter", "vlm.b"), mark="3 "), "me/x"); say()')
    assert "newer-than-all" not in readme(published), "`all` was renewed"
    assert "newer_than_all" not in readme(published)


def test_equal_captions_make_nothing_newer_than_all(published: LoopbackHub, client: Any) -> None:
    answer = client('push_to_hub(rows(), "me/x", config_names=["otter"]); say()')
    assert "lacks" not in answer["stderr"]
    assert "newer-than-all" not in readme(published)


def test_other_rows_than_the_rest_are_warned_of_once(published: LoopbackHub, client: Any) -> None:
    answer = client('push_to_hub({"otter": rows(n=11)["otter"]}, "me/x"); say()')
    assert answer["stderr"].count("config 'otter' has other rows than those that stay (11 in train; but 20 in") == 1
    assert client('push_to_hub(rows(n=11), "me/x"); say()')["stderr"].count("other rows") == 0


def test_a_dry_run_shows_files_configs_and_the_card(published: LoopbackHub, client: Any) -> None:
    head = revisions(published)
    answer = client(
        """
from hf_mllm_aug.publish import plan_release
configs = rows(("otter", "vlm.b"), n=25, mark="\\u202enew\\x1b[31m ")
folder = save_configs({name: configs[name] for name in ("otter", "vlm.b")}, TMP + "/staged")
push_to_hub(save_configs({"otter": rows(n=12_000)["otter"]}, TMP + "/two", max_shard_size=1), "me/x", revision="two")
plan = plan_release(folder, "me/x")
two = plan_release(folder, "me/x", revision="two", config_names=["otter"])
say(steps=[[s.action, s.path, s.size, s.old_size] for s in plan], configs=list(map(str, plan.configs)),
    diff=list(plan.card_diff), lines=plan.lines(), two=[[s.action, s.path, s.size] for s in two],
    warnings=list(plan.warnings))
""".replace("TMP", repr(client.env["TMPDIR"]))
    )
    assert revisions(published) == head, "a dry run changed something"
    tree = published.store.get("me/x").resolve("main").tree
    steps = {path: (action, size, old) for action, path, size, old in answer["steps"]}
    shard = "train-00000-of-00001.parquet"
    assert steps[f"otter/{shard}"][0] == "replace"
    assert steps[f"otter/{shard}"][2] == tree[f"otter/{shard}"].size
    assert steps[f"vlm.b/{shard}"][0::2] == ("add", None)
    assert steps["README.md"][0] == "replace"
    assert set(answer["configs"]) == {
        "untouched all: 20 rows",
        "untouched raw: 20 rows",
        "untouched tiny-llava: 20 rows",
        "renewed   otter: 20 -> 25 rows",
        "new       vlm.b: 25 rows",
    }
    assert any(line.startswith("+") and "vlm.b" in line for line in answer["diff"])
    assert any(line.startswith("-") and "num_examples: 20" in line for line in answer["diff"])
    assert not any(line.startswith("-") and "My own words" in line for line in answer["diff"])
    shown = "\n".join(answer["lines"])
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert any("has other rows" in warning for warning in answer["warnings"])
    at_two = published.store.get("me/x").resolve("two").tree
    deleted = {path: size for action, path, size in answer["two"] if action == "delete"}
    shards = {
        path: blob.size for path, blob in at_two.items() if path.startswith("otter/") and path != f"otter/{shard}"
    }
    assert len(shards) == 2, "the branch has one shard"
    assert {path: size for path, size in deleted.items() if path.startswith("otter/")} == shards


def test_a_config_is_deleted_with_all_that_is_its_own(published: LoopbackHub, client: Any) -> None:
    before = set(files(published))
    answer = client("""
from hf_mllm_aug.publish import delete_config
commit = delete_config("me/x", "otter")
from datasets import get_dataset_config_names
names = get_dataset_config_names("me/x")
say(oid=commit.oid, names=names, rows={name: len(load_dataset("me/x", name, split="train")) for name in names})
""")
    assert answer["oid"] == revisions(published)[0]
    assert answer["rows"] == {"all": 20, "raw": 20, "tiny-llava": 20}
    gone = before - set(files(published))
    assert gone == {path for path in before if path.startswith(("otter/", "figures/otter-"))}
    assert {"figures/logo.svg", "LICENSE"} <= set(files(published))
    card = readme(published)
    assert "My own words about otter." in card
    assert 'id="config-otter"' not in card
    assert "hf-mllm-aug:begin captioner-otter" not in card
    assert "figures/otter-" not in card
    assert '"otter"' not in card
    assert card.count("default: true") == 1
    assert [item["config_name"] for item in metadata(published)["dataset_info"]] == ["all", "raw", "tiny-llava"]
    # It can come again, block and all.
    client('push_to_hub({"otter": rows()["otter"]}, "me/x"); say()')
    assert "hf-mllm-aug:begin captioner-otter" in readme(published)
    assert set(files(published)) == before


def test_the_default_moves_when_it_is_deleted(published: LoopbackHub, client: Any) -> None:
    answer = client("""
from hf_mllm_aug.publish import delete_config
delete_config("me/x", "all")
say(columns=load_dataset("me/x", split="train").column_names)
""")
    assert answer["columns"] == ["key", "url", "caption"]
    assert [c["config_name"] for c in metadata(published)["configs"] if c.get("default")] == ["raw"]
    assert "newer_than_all" not in readme(published)


def test_deleting_retries_and_refuses_what_would_break_the_data_set(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub({name: rows()[name] for name in ("raw", "otter")}, "me/x"); say()')
    hub.inject("/commit/", 412)
    hub.inject("/commit/", 500)
    hub.inject("/commit/", "cut-after")
    answer = client("""
from hf_mllm_aug.errors import AugError
from hf_mllm_aug.publish import delete_config
delete_config("me/x", "otter")
errors = []
for repo, name in (("me/x", "otter"), ("me/x", "raw"), ("me/none", "raw"), ("x", "raw")):
    try:
        delete_config(repo, name)
    except AugError as error:
        errors.append(str(error))
say(errors=errors, n=len(load_dataset("me/x", split="train")))
""")
    assert answer["n"] == 20
    assert len(revisions(hub)) == 3, "a retry made a commit of its own"
    unknown, only, missing, ownerless = answer["errors"]
    assert "unknown config 'otter'" in unknown
    assert "'raw' is the only config of me/x" in only
    assert "does not know me/none" in missing
    assert "OWNER/NAME" in ownerless


def test_readers_must_ask_from_the_start_if_it_is_said(hub: LoopbackHub, client: Any) -> None:
    hub.inject("/settings", 500)
    client('push_to_hub({"raw": rows()["raw"]}, "me/x", gated="manual", private=True); say()')
    repo = hub.store.get("me/x")
    assert (repo.gated, repo.private) == ("manual", True)
    asked = [path for method, path, status in hub.requests if status == 200 and method in ("PUT", "POST")]
    assert asked.index("/api/datasets/me/x/settings") < asked.index("/api/datasets/me/x/commit/main")
    client('push_to_hub({"raw": rows(n=3)["raw"]}, "me/x"); say()')
    assert repo.gated == "manual", "a release that says nothing opened the gate"
    assert hub.count("PUT", "/settings") == 2
    client('push_to_hub({"raw": rows(n=3)["raw"]}, "me/x", gated=False); say()')
    assert hub.store.get("me/x").gated is False
    answer = client("""
from hf_mllm_aug.errors import UsageError
try:
    push_to_hub({"raw": rows()["raw"]}, "me/x", gated="yes")
except UsageError as error:
    say(error=str(error))
""")
    assert "gated='yes'" in answer["error"]


def test_what_should_be_private_is_never_published_for_all(hub: LoopbackHub, client: Any) -> None:
    answer = client("""
HfApi().create_repo("me/x", repo_type="dataset", private=False)
try:
    push_to_hub(rows(), "me/x", private=True)
except PublishError as error:
    say(error=str(error))
""")
    assert "me/x is there already, and public" in answer["error"]
    assert len(revisions(hub)) == 1
    assert not hub.uploads
    client("""
HfApi().update_repo_settings("me/x", repo_type="dataset", private=True)
push_to_hub({"raw": rows()["raw"]}, "me/x", private=True)
say()
""")
    assert len(revisions(hub)) == 2


def test_a_gateway_that_gives_up_on_a_pull_request_makes_no_second_one(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub({"raw": rows()["raw"]}, "me/x"); say()')
    hub.inject("/commit/", 504)
    answer = client("""
try:
    push_to_hub({"raw": rows(n=3)["raw"]}, "me/x", create_pr=True)
except PublishError as error:
    say(error=str(error))
""")
    assert "Look whether it is there" in answer["error"]
    hub.inject("/commit/", 504, times=99)
    answer = client("""
try:
    push_to_hub({"raw": rows(n=3)["raw"]}, "me/x", max_retries=1)
except PublishError as error:
    say(error=str(error))
""")
    assert "it may have been made" in answer["error"]
    assert "Nothing was published" not in answer["error"]


def test_a_card_on_the_hub_that_is_broken_is_named_and_kept(hub: LoopbackHub, client: Any) -> None:
    client('push_to_hub({name: rows()[name] for name in ("raw", "otter")}, "me/x"); say()')
    repo = hub.store.get("me/x")
    tree = dict(repo.resolve("main").tree)
    tree["README.md"] = hub.store.add_bytes(b"---\nconfigs: [\n---\nMine\n")
    hub.store._append(repo, "refs/heads/main", revisions(hub)[0], tree, "by git", "")
    head = revisions(hub)
    answer = client("""
from hf_mllm_aug.publish import delete_config
errors = []
for call in (lambda: push_to_hub(rows(), "me/x"), lambda: delete_config("me/x", "otter")):
    try:
        call()
    except PublishError as error:
        errors.append(str(error))
say(errors=errors)
""")
    for error in answer["errors"]:
        assert "the card of me/x: its metadata cannot be read" in error
    assert len(answer["errors"]) == 2
    assert revisions(hub) == head


def test_rows_that_are_not_there_are_found_though_the_listing_is_right(hub: LoopbackHub, client: Any) -> None:
    blobs = str(hub.store.folder)
    answer = client(f"""
from pathlib import Path
from hf_mllm_aug.release import Release
less = save_configs({{"raw": rows(n=7)["raw"]}}, {client.env["TMPDIR"]!r} + "/less") / "raw"
commit = Release._commit
def swap(self, message, description):
    info = commit(self, message, description)
    sent = self._staged()["raw/train-00000-of-00001.parquet"]
    data = next(less.glob("*.parquet")).read_bytes()
    (Path({blobs!r}) / sent.sha256).write_bytes(bytes(sent.size - len(data)) + data)  # as large as before
    return info
Release._commit = swap
try:
    push_to_hub({{"raw": rows()["raw"]}}, "me/x")
except PublishError as error:
    say(error=str(error))
""")
    assert "does not hold what was sent: raw/train-00000-of-00001.parquet has 7 rows there, 20 were" in answer["error"]


def test_a_folder_whose_card_counts_other_rows_is_refused(hub: LoopbackHub, client: Any) -> None:
    answer = client(
        """
from pathlib import Path
from hf_mllm_aug.errors import UsageError
folder = save_configs({"raw": rows()["raw"]}, TMP + "/staged")
card = folder / "README.md"
card.write_text(card.read_text().replace("num_examples: 20", "num_examples: 21"))
try:
    push_to_hub(folder, "me/x")
except UsageError as error:
    say(error=str(error))
""".replace("TMP", repr(client.env["TMPDIR"]))
    )
    assert "says that raw/train has 21 rows, and its files have 20" in answer["error"]
    assert not hub.requests


def test_figures_of_a_config_are_replaced_and_those_of_others_stay(hub: LoopbackHub, client: Any) -> None:
    client(
        """
from hf_mllm_aug.card import Card
def push(names, figures, mark=""):
    text = str(save_configs({n: rows()[n] for n in names}, f"TMP/{mark}") / "README.md")
    card = Card(open(text).read(), {f"figures/{name}": f"<svg>{mark}</svg>".encode() for name in figures})
    push_to_hub({n: rows(mark=mark)[n] for n in names}, "me/x", card=card)
push(["all", "tiny-llava", "otter"], ["all-a.svg", "otter-a.svg", "otter-b.svg", "tiny-llava-a.svg"], "1")
push(["otter"], ["otter-a.svg"], "2")
say()
""".replace("TMP", client.env["TMPDIR"])
    )
    tree = hub.store.get("me/x").resolve("main").tree
    figures = {p: hub.store.blob_path(b.sha256).read_text() for p, b in tree.items() if p.startswith("figures/")}
    assert figures == {
        "figures/all-a.svg": "<svg>1</svg>",
        "figures/otter-a.svg": "<svg>2</svg>",
        "figures/tiny-llava-a.svg": "<svg>1</svg>",
    }
