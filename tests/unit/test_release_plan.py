"""What a dry run says, and the facts of staged files that it says it by."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.hub_calls import Retry, may_have_happened
from hf_mllm_aug.release_plan import ReleasePlan, ReleaseStep, card_diff, config_steps, rows_of_configs, warnings_of
from hf_mllm_aug.space import space_files
from hf_mllm_aug.staged_files import StagedFile, footer_size, rows_of_tail
from hf_mllm_aug.staging import workers, write_figures


def card(**rows: int | None) -> DatasetCard:
    configs = "".join(f"- config_name: {name}\n" for name in rows)
    infos = "".join(
        f"- config_name: {name}\n  splits:\n  - name: train\n    num_examples: {count}\n"
        for name, count in rows.items()
        if count is not None
    )
    return DatasetCard(f"---\nconfigs:\n{configs}dataset_info:\n{infos or '[]'}\n---\n")


def test_configs_are_told_with_their_rows_before_and_after() -> None:
    steps = config_steps(card(all=10, old=10, gone=7), card(all=10, old=12, new=12, odd=None), ["old", "new"], ["old"])
    assert list(map(str, steps)) == [
        "untouched all: 10 rows",
        "renewed   old: 10 -> 12 rows",
        "new       new: 12 rows",
        "untouched odd: ? rows",
        "deleted   gone: 7 rows",
    ]


def test_a_card_without_metadata_counts_nothing() -> None:
    assert rows_of_configs(None) == {}
    assert rows_of_configs(DatasetCard("no front matter")) == {}
    assert rows_of_configs(DatasetCard("---\ndataset_info: [1, {splits: 3}]\n---\n")) == {}


def test_rows_that_do_not_match_are_warned_of_once_a_config() -> None:
    (warning,) = warnings_of(card(all=10, raw=10, new=9), ["new"], [])
    assert "'new' has other rows" in warning
    assert warnings_of(card(all=10, new=10), ["new"], []) == ()
    assert warnings_of(card(all=9, new=9), ["all", "new"], []) == ()


def test_nothing_in_a_diff_is_obeyed_by_a_terminal() -> None:
    lines = card_diff("same\nold\n", "same\n  new \x1b]0;title\x07\u202e\x9b end\n" + "x" * 1000 + "\n")
    text = "\n".join(lines)
    assert "-old" in lines
    assert "+  new ]0;title end" in lines
    assert not set(text) & set("\x1b\x07\u202e\x9b")
    assert max(map(len, lines)) < 450


def test_a_plan_is_a_sequence_of_files_that_names_what_goes() -> None:
    steps = (ReleaseStep("delete", "a/b.parquet", 2048, 2048), ReleaseStep("replace", "c\x1b", 5, 7))
    plan = ReleasePlan(steps, warnings=("look out",))
    assert (len(plan), plan[0], list(plan), plan[1:]) == (2, steps[0], list(steps), steps[1:])
    assert [line.split() for line in plan.lines()] == [
        ["delete", "2,048", "a/b.parquet"],
        ["replace", "5", "c", "(was", "7)"],
        [],
        ["warning:", "look", "out"],
    ]


@pytest.mark.parametrize("rows", [1, 5000])
def test_rows_are_read_from_the_end_of_a_file(rows: int) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": range(rows)}), buffer, row_group_size=10)
    data = buffer.getvalue()
    assert rows_of_tail(data) == rows
    size = footer_size(data[-8:])
    assert rows_of_tail(data[-size:]) == rows
    assert rows_of_tail(data[-size + 1 :]) is None
    with pytest.raises(ValueError, match="not a Parquet file"):
        rows_of_tail(b"<html>" + bytes(20))


def test_a_file_equals_what_git_or_lfs_says_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"what\n")
    file = StagedFile.of_file(path)
    git = "f510eb21780143dc3ad1f6c0d033f05e623885b4"  # as `git hash-object` says
    remote: Any = SimpleNamespace(size=5, lfs=None, blob_id=git)
    assert file.equals(remote)
    remote.blob_id = "0" * 40
    assert not file.equals(remote)
    assert file.equals(SimpleNamespace(size=5, lfs=SimpleNamespace(sha256=file.sha256), blob_id=git))  # type: ignore[arg-type]
    assert not file.equals(SimpleNamespace(size=6, lfs=SimpleNamespace(sha256=file.sha256), blob_id=git))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["README.md", "figures/../x.svg", "/etc/x.svg", "figures/x.html", "figures/a/b.svg"])
def test_files_of_a_card_lie_among_its_figures(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be a card's file"):
        write_figures({path: b""}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_workers_are_some() -> None:
    assert workers(7) == 7
    assert 1 <= workers(None) <= 4
    with pytest.raises(UsageError, match="num_proc=0"):
        workers(0)


class _ConflictError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = SimpleNamespace(status_code=status, headers={})


def test_conflicts_use_up_no_tries_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_mllm_aug.hub_calls._FIRST_WAIT", 0.0)
    answers: list[int] = [412] * 10 + [500, 409, 500, 412, 500]

    def call() -> str:
        if answers:
            raise _ConflictError(answers.pop(0))
        return "done"

    assert Retry(2)("committing", call, conflicts=True) == "done"
    answers = [500] * 3
    with pytest.raises(_ConflictError):
        Retry(2)("committing", call, conflicts=True)
    answers = [412] * 100
    with pytest.raises(_ConflictError):
        Retry(2)("committing", call, conflicts=True)
    assert len(answers) == 100 - (2 * 8 + 1)
    answers = [412]
    with pytest.raises(_ConflictError):
        Retry(2)("reading", call)


@pytest.mark.parametrize(("status", "unclear"), [(408, True), (502, True), (504, True), (412, False), (401, False)])
def test_what_a_gateway_answers_to_a_commit_says_nothing_about_it(status: int, unclear: bool) -> None:
    assert may_have_happened(_ConflictError(status)) is unclear


@pytest.mark.parametrize("repo_id", ["me/app", "app", "me/recall.v2"])
def test_a_space_whose_module_could_not_be_loaded_is_refused(repo_id: str) -> None:
    with pytest.raises(UsageError, match="cannot name a metric's Space"):
        space_files("retrieval_recall", repo_id)
