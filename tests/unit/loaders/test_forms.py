"""Every form of the data sets is recognised by what it is, and gives the same rows however it is read."""

from __future__ import annotations

import bz2
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from hf_mllm_aug import load_cc3m, load_cc12m, load_yfcc15m, schema
from hf_mllm_aug.errors import FormatError, UnknownNameError, UsageError
from hf_mllm_aug.loaders.forms import CC3M, CC12M, FORMS, YFCC15M
from hf_mllm_aug.loaders.recognise import expand, recognise
from hf_mllm_aug.sources import open_source
from tests.unit.loaders.published_forms import (
    CASES,
    Case,
    N,
    by_url,
    caption,
    caption_first,
    compressed,
    conceptual_copy,
    declip,
    img2dataset_folder,
    img2dataset_parquet,
    tars,
    url,
    url_first,
    write,
)

# A compressed list can only be read from its beginning.
UNCUT = (compressed,)


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def opened(case: Case, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    source = case.make(folder)
    made = {name: value(folder) if callable(value) else value for name, value in case.options.items()}
    return source, {**made, **options}


def by_key(rows: Any) -> list[dict[str, Any]]:
    return sorted((dict(row) for row in rows), key=lambda row: str(row["key"]))


def test_a_form_is_recognised_and_gives_schema_rows(case: Case, tmp_path: Path) -> None:
    source, options = opened(case, tmp_path)
    assert recognise(expand(source)) == case.form
    rows = case.load(source, **options)
    assert isinstance(rows, Dataset)
    assert rows.features == schema.base_features()
    found = {row["key"]: row for row in rows}
    assert sorted(found) == sorted(case.keys(i) for i in range(case.rows))
    assert len(rows) == case.rows
    for number in (0, 1, case.rows - 1):
        row = found[case.keys(number)]
        expected = caption(number).replace("<PERSON>", "man") if case.form == "openai-list" else caption(number)
        assert row["caption"] == expected
        assert row["url"] == (None if case.form == "pairs" else url(number))
        assert (row["image"] is not None) == case.image


def test_map_and_streaming_style_shuffled_and_sharded_give_each_row_once(case: Case, tmp_path: Path) -> None:
    source, options = opened(case, tmp_path)
    whole = by_key(case.load(source, **options))
    stream = case.load(source, streaming=True, **options)
    assert isinstance(stream, IterableDataset)
    assert stream.features == schema.base_features()
    assert [row["key"] for row in case.load(source, **options)] == [row["key"] for row in stream], "the same order"
    assert by_key(stream) == whole
    shuffled = list(stream.shuffle(seed=3, buffer_size=100))
    assert by_key(shuffled) == whole
    assert [row["key"] for row in shuffled] != [row["key"] for row in stream]
    mapped = case.load(source, **options)
    assert by_key(mapped.shuffle(seed=3)) == whole
    for rows in (mapped, stream):
        if rows is mapped or case.make not in UNCUT:
            pieces = [list(rows.shard(num_shards=2, index=index)) for index in range(2)]
            assert by_key(itertools.chain(*pieces)) == whole
            assert all(pieces)
        for world in (2, 3):
            parts = (row for rank in range(world) for row in split_dataset_by_node(rows, rank, world))
            assert by_key(parts) == whole


def test_all_forms_but_one_have_several_shards(case: Case, tmp_path: Path) -> None:
    source, options = opened(case, tmp_path)
    shards = case.load(source, streaming=True, **options).num_shards
    assert shards == 1 if case.make in UNCUT else shards >= 2


def test_a_large_list_has_several_shards(tmp_path: Path) -> None:
    for load, make in ((load_cc3m, caption_first), (load_cc12m, url_first), (load_yfcc15m, declip)):
        stream = load(make(tmp_path), streaming=True)
        assert stream.num_shards >= 2, make.__name__
        assert len({row["key"] for row in stream.shard(2, 1)}) > N // 4, make.__name__
    assert load_cc12m(compressed(tmp_path), streaming=True).num_shards == 1, "a compressed file cannot be cut"


def test_a_stream_goes_on_where_it_was_left(tmp_path: Path) -> None:
    stream = load_cc12m(url_first(tmp_path), streaming=True)
    keys = [row["key"] for row in stream]
    rows = iter(stream)
    for _ in range(1_700):
        next(rows)
    state = stream.state_dict()
    again = load_cc12m(url_first(tmp_path), streaming=True)
    again.load_state_dict(state)
    assert [row["key"] for row in again] == keys[1_700:]


def test_a_split_is_chosen_by_the_names_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    assert load_cc3m(conceptual_copy(tmp_path / "copy"), split="validation")["caption"] == ["validated"]
    write(tmp_path / "lists" / "Train_GCC-training.tsv", f"a\t{url(0)}\n")
    write(tmp_path / "lists" / "Validation_GCC-1.1.0-Validation.tsv", f"b\t{url(1)}\n")
    assert load_cc3m(tmp_path / "lists")["caption"] == ["a"]
    rows = load_cc3m(tmp_path / "lists", split="validation")
    assert (rows["caption"][:], str(rows.split)) == (["b"], "validation")
    with pytest.raises(UsageError, match="has no split 'test'; it has: train, validation"):
        load_cc3m(tmp_path / "lists", split="test")


def test_a_config_is_chosen_by_its_folder(tmp_path: Path) -> None:
    copy = conceptual_copy(tmp_path)
    rows = load_cc3m(copy, config="labeled")
    assert rows["caption"] == ["labelled"]
    assert rows.column_names == ["key", "image", "url", "caption"]
    with pytest.raises(UsageError, match="no config 'lebeled'"):
        load_cc3m(copy, config="lebeled")


def test_a_slice_is_taken_of_any_form(case: Case, tmp_path: Path) -> None:
    source, options = opened(case, tmp_path)
    whole = case.load(source, **options)
    part = case.load(source, split="train[3:7]", **options)
    assert part["key"][:] == whole["key"][3:7]
    assert len(case.load(source, split="train[:50%]", **options)) == case.rows // 2
    with pytest.raises(ValueError, match="corresponds to no data"):
        case.load(source, split=f"train[{case.rows}:]", **options)
    with pytest.raises(UsageError, match=r"a stream cannot be sliced.*split='train'"):
        case.load(source, split="train[3:7]", streaming=True, **options)


def test_a_form_that_is_named_overrides_what_is_recognised(tmp_path: Path) -> None:
    swapped = write(tmp_path / "swapped.tsv", f"{url(0)}\ta\n")
    assert load_cc3m(swapped, form="tsv-url-caption")[0]["caption"] == "a"
    with pytest.raises(UnknownNameError, match="unknown form of CC3M 'tvs': did you mean 'tsv'"):
        load_cc3m(swapped, form="tvs")
    with pytest.raises(UnknownNameError, match="unknown form of CC12M 'declip'"):
        load_cc12m(swapped, form="declip")


def test_several_lists_are_read_in_their_order(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.tsv", f"{url(number)}\t{caption(number)}\n")
    expected = [caption(0), caption(1), caption(2)]
    assert load_cc12m(str(tmp_path / "part-*.tsv"))["caption"] == expected
    stream = load_cc12m([tmp_path / "part-2.tsv", tmp_path / "part-0.tsv"], streaming=True)
    assert [row["caption"] for row in stream] == [expected[2], expected[0]]


def test_an_option_without_meaning_is_refused(tmp_path: Path) -> None:
    source = url_first(tmp_path)
    with pytest.raises(UsageError, match="image_root= means nothing for the form 'tsv'"):
        load_cc12m(source, image_root=tmp_path)
    with pytest.raises(UsageError, match="config= means nothing"):
        load_cc3m(source, config="labeled")
    with pytest.raises(UsageError, match="metadata= means nothing for the form 'declip'"):
        load_yfcc15m(declip(tmp_path), metadata=source)
    with pytest.raises(UsageError, match="on_error is 'raise' or 'skip', not 'ignore'"):
        load_cc12m(source, on_error="ignore")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"split is a name.*not 'a\+b'"):
        load_cc12m(source, split="a+b")


def test_what_is_no_form_is_said_with_the_forms_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder: .*gone\.tsv"):
        load_cc3m(tmp_path / "gone.tsv")
    with pytest.raises(UsageError, match=r"notes\.txt is of no form that is known.*webdataset: WebDataset tars"):
        load_cc3m(write(tmp_path / "notes.txt", "no tab in here\n"))
    with pytest.raises(UsageError, match=r"looks like DeCLIP's JSON lines .*, no form of CC3M"):
        load_cc3m(declip(tmp_path))
    with pytest.raises(UsageError, match="a folder is opened alone, not among others"):
        load_cc3m([tmp_path, tmp_path / "notes.txt"])
    with pytest.raises(UsageError, match="no file was named"):
        load_cc3m([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is of no form that is known"):
        load_cc3m(tmp_path / "empty")
    with pytest.raises(FormatError, match=r"nothing\.tsv: the file is empty"):
        load_cc3m(write(tmp_path / "nothing.tsv", ""))


def test_the_command_line_opens_these_forms_as_sources(tmp_path: Path) -> None:
    for number, make in enumerate(
        (caption_first, url_first, compressed, tars, img2dataset_folder, img2dataset_parquet)
    ):
        (tmp_path / str(number)).mkdir()
        source = str(make(tmp_path / str(number)))
        rows = open_source(source, max_samples=3)
        assert rows["caption"][:] == [caption(i) for i in range(3)], make.__name__
        assert rows["url"][:] == [url(i) for i in range(3)], make.__name__
        assert rows.column_names == ["key", "image", "url", "caption"]
    assert len(open_source(str(tmp_path / "1" / "cc12m.tsv"))) == N
    assert len(open_source(str(tmp_path / "3" / "cc3m-train-*.tar"))) == 30
    (row,) = open_source(str(declip(tmp_path)), max_samples=1)
    assert row["image"]["path"] == str(tmp_path / "000" / "0.jpg"), "as beside any other list of files"


def test_the_command_line_asks_for_a_form_where_an_order_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no address in the first lines.*form='tsv-caption-url'"):
        open_source(str(write(tmp_path / "odd.tsv", "a\tb\n")))


def test_repeated_keys_are_kept_and_reported_with_the_first_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = [0, 1, 0, 2, 1, 0, 3]
    source = write(tmp_path / "cc12m.tsv", "".join(f"{url(i)}\tcaption {n}\n" for n, i in enumerate(numbers)))
    with caplog.at_level(logging.WARNING):
        assert len(load_cc12m(source)) == 7
    assert (
        f"cc12m.tsv: 3 of 7 rows repeat the key of an earlier row, such as '{by_url(0)}', '{by_url(1)}'" in caplog.text
    )
    assert by_url(2) not in caplog.text


def test_an_edited_list_is_read_again(tmp_path: Path) -> None:
    assert load_cc12m(write(tmp_path / "a.tsv", f"{url(0)}\tone\n"))["caption"] == ["one"]
    assert load_cc12m(write(tmp_path / "a.tsv", f"{url(0)}\ttwo\n"))["caption"] == ["two"]


def test_keys_do_not_depend_on_order_copy_or_style(tmp_path: Path) -> None:
    straight = load_cc12m(write(tmp_path / "a.tsv", "".join(f"{url(i)}\tx\n" for i in range(50))))
    turned = load_cc12m(write(tmp_path / "b.tsv", "".join(f"{url(i)}\ty\n" for i in reversed(range(50)))))
    caption_url = load_cc3m(write(tmp_path / "c.tsv", "".join(f"z\t{url(i)}\n" for i in range(50))), streaming=True)
    assert straight["key"][:] == turned["key"][::-1] == [row["key"] for row in caption_url]


def test_bzip2_is_read_whatever_the_name_says(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(bz2.compress(f"{url(0)}\ta\n".encode()))
    assert load_cc12m(path)["caption"] == ["a"]


def test_every_form_of_a_data_set_is_registered_and_described() -> None:
    for data_set in (CC3M, CC12M, YFCC15M):
        assert set(data_set.forms) <= set(FORMS)
    assert all(form.what for form in FORMS.values())
    assert {case.form for case in CASES.values()} | {"hub", "hub-shards", "tsv"} == set(FORMS), "each has a test"
