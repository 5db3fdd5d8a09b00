"""The scripts of the data sets: their headers, the rows that they take, what they refuse, and the command they show."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image, Value
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import hf_mllm_aug
from hf_mllm_aug import load_cc3m
from hf_mllm_aug.commands.dataset_script import DataSetScript, parse, reproduction, run_script
from hf_mllm_aug.dataset_job import (
    Selection,
    WorkFolder,
    lacks_pictures,
    public_name,
    read_rows,
    with_unique_keys,
)
from hf_mllm_aug.errors import OutputExistsError, PublishError, UnknownNameError, UsageError

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "dataset_scripts").glob("*.py"))
HEADER = re.compile(r"\A# /// script\n((?:#.*\n)+?)# ///\n")


def script_of(name: str) -> DataSetScript:
    """What a script says of its data set, without running it."""
    found: DataSetScript = runpy.run_path(str(ROOT / "dataset_scripts" / f"{name}.py"))["SCRIPT"]
    return found


def numbered(count: int, path: Path) -> str:
    """A list of CC3M's form."""
    path.write_text("".join(f"caption {i}\thttp://example.org/{i}.jpg\n" for i in range(count)))
    return str(path)


def rows_of(images: list[Any], **columns: list[Any]) -> Dataset:
    rows = {"key": [str(i) for i in range(len(images))], "image": images, "url": [None] * len(images), **columns}
    return Dataset.from_dict(rows).cast_column("image", Image(decode=False)).cast_column("url", Value("string"))


# --- the files


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_one_file_that_says_what_it_needs(path: Path) -> None:
    tomllib = pytest.importorskip("tomllib", reason="the standard library has it from Python 3.11 on")
    text = path.read_text()
    found = HEADER.match(text)
    assert found, "no PEP 723 header at its top"
    needs = tomllib.loads(re.sub(r"^# ?", "", found[1], flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    admitted = SpecifierSet(needs["requires-python"])
    assert "3.11" in admitted
    for version in (f"3.{minor}" for minor in range(8, 15) if f"3.{minor}" in admitted):
        assert version in SpecifierSet(project["requires-python"]), version
        for name in (Requirement(line).name for line in project["dependencies"]):
            # Else `uv run` cannot make an environment for that Python.
            assert f"{version}.5" in SpecifierSet(metadata(name)["Requires-Python"] or ""), f"{name}, {version}"
    (requirement,) = map(Requirement, needs["dependencies"])
    assert requirement.name == project["name"]
    assert requirement.specifier.contains(hf_mllm_aug.__version__)
    assert needs["tool"]["hf-jobs"]["secrets"] == ["HF_TOKEN"]
    imported = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    assert set(imported) == {"hf_mllm_aug"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scripts_examples_are_commands_that_it_takes(path: Path) -> None:
    script = script_of(path.stem)
    assert script.file == path.name
    joined = script.about.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    assert any(line.startswith("hf jobs uv run") and "-s HF_TOKEN" in line for line in lines)
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        options = parse(script, words[words.index(path.name) + 1 :])
        assert options.output.startswith("OWNER/"), line


def test_the_readme_has_every_script_and_commands_that_they_take() -> None:
    text = (ROOT / "dataset_scripts" / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^.*dataset_scripts/(\w+)\.py (.*)$", text, re.MULTILINE)
    assert len(commands) >= 4
    for name, words in commands:
        parse(script_of(name), shlex.split(words))
    assert {path.stem for path in SCRIPTS} == set(re.findall(r"^\| `(\w+)\.py`", text, re.MULTILINE))
    known = parse(script_of("cc3m"), ["a", "b"])
    for option in set(re.findall(r"`--([a-z-]+)", text)) - {"metadata", "help"}:
        assert hasattr(known, option.replace("-", "_")), option


# --- rows


def test_the_first_rows_are_taken_without_reading_the_others(tmp_path: Path) -> None:
    source = numbered(20_000, tmp_path / "list.tsv")
    with open(source, "a", encoding="utf-8") as file:
        file.write("no address in this line\n")
    rows = read_rows(load_cc3m, source, Selection(max_samples=5), {})
    assert rows["caption"][:] == [f"caption {i}" for i in range(5)]


def test_shuffled_rows_are_of_the_whole_list_and_decided_by_the_seed(tmp_path: Path) -> None:
    source = numbered(50, tmp_path / "list.tsv")

    def taken(seed: int) -> list[str]:
        selection = Selection(max_samples=10, shuffle=True, seed=seed)
        return list(read_rows(load_cc3m, source, selection, {})["caption"])

    assert taken(1) == taken(1) != taken(2)
    assert len(set(taken(1))) == 10
    assert any(int(caption.split()[1]) >= 10 for caption in taken(1))


def test_more_rows_than_there_are_is_all_rows(tmp_path: Path) -> None:
    source = numbered(3, tmp_path / "list.tsv")
    for shuffle in (False, True):
        assert len(read_rows(load_cc3m, source, Selection(max_samples=9, shuffle=shuffle), {})) == 3


def test_a_slice_of_a_split_may_be_taken(tmp_path: Path) -> None:
    source = numbered(10, tmp_path / "list.tsv")
    rows = read_rows(load_cc3m, source, Selection(split="train[4:]", max_samples=2), {})
    assert rows["caption"][:] == ["caption 4", "caption 5"]


def test_streams_are_neither_copied_nor_shuffled(tmp_path: Path) -> None:
    from datasets import IterableDataset

    source = numbered(3, tmp_path / "list.tsv")
    rows = read_rows(load_cc3m, source, Selection(streaming=True), {})
    assert isinstance(rows, IterableDataset)
    with pytest.raises(UsageError, match="a stream cannot be shuffled"):
        Selection(streaming=True, shuffle=True)


def test_a_source_without_rows_is_refused() -> None:
    def load(source: str, **options: Any) -> Dataset:
        return rows_of([], caption=[])

    with pytest.raises(UsageError, match="empty has no rows"):
        read_rows(load, "empty", Selection(), {})


def test_keys_stay_where_they_name_one_row_each() -> None:
    rows = rows_of([None, None], caption=["a", "b"])
    assert with_unique_keys(rows) is rows


@pytest.mark.parametrize("keys", [["a", "a", "b"], ["a", None, "b"], [None, None, None]])
def test_keys_that_do_not_name_one_row_are_made_anew(keys: list[str | None], caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of([None] * 3, caption=["x", "y", "z"], key=keys).cast_column("key", Value("string"))
    made = with_unique_keys(rows)
    assert len(set(made["key"])) == 3
    assert None not in made["key"][:]
    assert made.column_names == rows.column_names
    assert re.search(r"^(1|3) of 3 rows have no key or that of another row", caplog.messages[0])
    # Of the row alone: in another order each row has the same one.
    assert with_unique_keys(rows.select([2, 1, 0]))["key"][:] == made["key"][::-1]


def test_pictures_are_lacking_where_there_are_addresses_only() -> None:
    address = ["http://a.b/c.jpg"] * 2
    assert lacks_pictures(rows_of([None, None], url=address))
    assert not lacks_pictures(rows_of([None, {"bytes": b"x", "path": None}], url=address))
    assert lacks_pictures(rows_of([None, None], url=address).to_iterable_dataset())
    with pytest.raises(UsageError, match="neither pictures nor addresses"):
        lacks_pictures(rows_of([None, None]))


@pytest.mark.parametrize("remote", [False, True])
def test_work_that_is_there_is_gone_on_with_only_when_asked(remote: bool, tmp_path: Path) -> None:
    import fsspec

    work = WorkFolder(f"memory://{tmp_path.name}" if remote else str(tmp_path / "work"))
    work.check("me/x", resume=False)
    with fsspec.open(f"{work.run}/plan.json", "w", auto_mkdir=True) as file:
        file.write("{}")
    with pytest.raises(OutputExistsError, match="pass --resume"):
        work.check("me/x", resume=False)
    work.check("me/x", resume=True)


def test_a_folder_that_is_no_release_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for work in (WorkFolder("x.work"), WorkFolder("memory://somewhere")):
        folder = work.release("me/x")
        assert folder == Path("x.work/release")
        folder.mkdir(parents=True, exist_ok=True)
        work.check("me/x", resume=True)
        (folder / "thesis.txt").touch()
        with pytest.raises(OutputExistsError, match="is no staged release"):
            work.check("me/x", resume=True)
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: raw\n---\n")
        work.check("me/x", resume=True)
        shutil.rmtree(folder)


# --- what is refused before any work


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "the following arguments are required: INPUT, OUTPUT"),
        (["x.tsv", "me/x", "--max-samples", "0"], "'0' is no number above 0"),
        (["x.tsv", "me/x", "--images", "all"], "invalid choice: 'all'"),
        (["x.tsv", "me/x", "--metadata", "y"], "unrecognized arguments: --metadata y"),
        (["x.tsv", "me/x", "--shard", "2/2"], "argument --shard: shard='2/2' must be i/n with 0 <= i < n"),
        (["x.tsv", "me/x", "--shard", "1"], "argument --shard: shard='1' must be i/n"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        run_script(script_of("cc3m"), words)
    assert ending.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert problem in line
    assert line.endswith("See: cc3m.py --help")


@pytest.mark.parametrize(
    ("words", "kind", "problem"),
    [
        (["me/x", "--captioner", "lava-1.5"], UnknownNameError, "did you mean 'llava-1.5'"),
        (["not a name", "--captioner", "tiny-llava"], PublishError, "cannot name a repository"),
        (["me/x", "--captioner", "tiny-llava"], PublishError, "there is no token"),
        (["me/x", "--dry-run", "--captioner", "a/b", "--preset", "paper"], UsageError, "no variant 'paper'"),
        (["me/x", "--dry-run", "--shuffle", "--streaming"], UsageError, "a stream cannot be shuffled"),
        (["me/x", "--dry-run", "--shard", "0/2"], UsageError, "--shard stages nothing"),
        (["me/x", "--dry-run", "--no-fetch"], UsageError, "leave out --no-fetch"),
        (["me/x", "--dry-run", "--form", "declip"], UnknownNameError, "unknown form of CC3M 'declip'"),
        (["me/x", "--dry-run", "--config", "labeled"], UsageError, "config= means nothing for the form 'tsv'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_work(
    words: list[str], kind: type[Exception], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    source = numbered(3, tmp_path / "list.tsv")
    with pytest.raises(kind, match=re.escape(problem)):
        run_script(script_of("cc3m"), [source, *words])
    assert [path.name for path in tmp_path.iterdir()] == ["list.tsv"]


# --- the command that a card shows


def test_the_command_has_what_decides_the_data_set_and_nothing_of_this_machine() -> None:
    script = script_of("yfcc15m")
    words = ["/data/lists/yfcc100m_subset_data.tsv", "me/yfcc", "--metadata", "/data/yfcc100m_dataset.bz2", "--shuffle"]
    words += ["--max-samples", "100", "--captioner", "minigpt-4=/data/models/minigpt-4", "--captioner", "otter"]
    words += ["--work-dir", "/scratch/work", "--resume", "--allow-private", "--batch-size", "4", "--private"]
    shown = reproduction(script, parse(script, words))
    assert shlex.join(shown) == (
        "uv run yfcc15m.py yfcc100m_subset_data.tsv me/yfcc --captioner minigpt-4=minigpt-4 --captioner otter "
        "--max-samples 100 --shuffle --seed 42 --metadata yfcc100m_dataset.bz2"
    )
    assert parse(script, shown[3:]).max_samples == 100


def test_the_captioner_that_nobody_named_stands_in_the_command() -> None:
    script = script_of("cc3m")
    shown = reproduction(
        script, parse(script, ["pixparse/cc3m-wds", "me/x", "--images", "embed", "--config", "labeled"])
    )
    assert shown[3:] == [
        "pixparse/cc3m-wds", "me/x", "--captioner", "llava-1.5", "--images", "embed", "--config", "labeled"
    ]  # fmt: skip


def test_a_path_is_cut_to_its_name(tmp_path: Path) -> None:
    assert public_name(str(tmp_path)) == tmp_path.name
    assert public_name("tars/{00000..00009}.tar") == "{00000..00009}.tar"
