"""What stands side by side: each config's captions, and what the config `all` lends them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from datasets import Dataset, DatasetDict

from hf_mllm_aug import save_configs, to_configs
from hf_mllm_aug.errors import FormatError, UnknownNameError
from hf_mllm_aug.preview.page import rows_page
from hf_mllm_aug.preview.repository import open_repository
from hf_mllm_aug.preview.state import State
from hf_mllm_aug.preview.views import Row, Views
from tests.preview_folders import NAMES, columns, dataset, stage


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Views:
    folder = stage(tmp_path_factory.mktemp("views") / "data", 30, pictures=True)
    return Views(open_repository(str(folder)), page_rows=10)


def texts(row: Row) -> dict[str, str | None]:
    return {caption.label: None if caption.text is None else str(caption.text.start) for caption in row.captions}


def test_all_shows_every_caption_beside_the_raw_one(views: Views) -> None:
    row = views.page(State(page=2)).rows[3]
    expected = {"raw": "raw words of row 13", "tiny-llava": "tiny-llava sees row 13", "otter": None}
    assert (row.number, row.pictured, texts(row)) == (13, "all", expected)
    llava, otter = row.captions[1:]
    assert llava.tail is not None
    assert (llava.stop, llava.tail.start) == (".", "The tail of row 13")
    assert otter.error == "the file is empty"


def test_a_captioners_config_borrows_picture_raw_caption_and_tail(views: Views) -> None:
    row = views.page(State(config="otter")).rows[0]
    assert texts(row) == {"raw": "raw words of row 0", "otter": "otter sees row 0"}
    assert row.pictured == "all"
    assert row.captions[1].tail is not None
    assert views.page(State(config="otter")).rows[6].captions[1].error == "the file is empty"


def test_the_raw_config_shows_raw_captions_and_pictures(views: Views) -> None:
    row = views.page(State(config="raw")).rows[0]
    assert (texts(row), row.pictured) == ({"raw": "raw words of row 0"}, "all")


def test_rows_with_other_keys_borrow_nothing(tmp_path: Path) -> None:
    configs = to_configs(dataset(columns(4), pictures=True), captioners=list(NAMES), images="embed")
    moved = columns(4)
    keys = [moved["key"][i] for i in (0, 2, 1, 3)]
    configs["otter"] = Dataset.from_dict({"key": keys, "caption": ["a", "b", "c", "d"]})
    save_configs(configs, tmp_path / "data")
    rows = Views(open_repository(str(tmp_path / "data"))).page(State(config="otter")).rows
    both, neither = ("all", True), (None, False)
    assert [(row.pictured, "raw" in texts(row)) for row in rows] == [both, neither, neither, both]


def test_pages_end_at_the_last_row(views: Views) -> None:
    page = views.page(State(page=999))
    assert (page.page, page.pages, page.total, page.rows[-1].number) == (3, 3, 30, 29)


def test_searches_pick_captions_of_the_config(views: Views) -> None:
    assert [row.number for row in views.page(State(q="ROW 1")).rows] == [1, *range(10, 19)]
    assert [row.number for row in views.page(State(failed="otter")).rows] == [6, 13, 20, 27]
    assert [row.number for row in views.page(State(failed="any", config="otter", q="")).rows] == [6, 13, 20, 27]
    assert views.page(State(within="otter", q="raw words")).rows == []
    assert len(views.page(State(within="raw", low=5, high=5)).rows) == 10
    assert views.page(State(high=3)).rows == []
    assert not views.page(State(config="raw", failed="any")).searched, "the raw config has no captioner that could fail"


def test_a_card_that_miscounts_is_not_believed(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 12, max_shard_size=2000)
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("num_examples: 12", "num_examples: 900"))
    repository = open_repository(str(folder))
    page = Views(repository, page_rows=5).page(State(page=180))
    assert (page.total, [row.number for row in page.rows]) == (12, [10, 11])


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    splits = DatasetDict({"train": dataset(columns(3)), "val.x": dataset(columns(2))})
    save_configs(to_configs(splits), tmp_path / "data")
    views = Views(open_repository(str(tmp_path / "data")))
    assert [views.page(State(split=name)).total for name in ("", "train", "val.x")] == [3, 3, 2]
    assert 'href="/?split=val.x"' in rows_page(views, State())
    with pytest.raises(UnknownNameError, match=r"unknown split 'vall\.x': did you mean 'val\.x'"):
        views.page(State(split="vall.x"))


def test_other_peoples_columns_of_text_are_shown_as_captions(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 3)
    Dataset.from_dict({"id": [1, 2], "text": ["one", "two"]}).to_parquet(
        folder / "raw" / "train-00000-of-00001.parquet"
    )
    rows = Views(open_repository(str(folder))).page(State(config="raw")).rows
    assert [texts(row) for row in rows] == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no README.md that lists configs"),
        (lambda folder: (folder.mkdir(), (folder / "README.md").write_text("# no YAML")), "no Parquet files"),
    ],
    ids=["nothing", "empty", "no configs"],
)
def test_what_is_no_data_set_is_said(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        open_repository(str(tmp_path / "x"))


def test_addresses_bring_back_what_they_say(views: Views) -> None:
    state = State("otter", "train", 3, "a b&c", "raw", "any", 2, 9, 40, (0, 20), False)
    assert State.parse(parse_qs(urlsplit(state.url()).query)) == state
    assert State.parse({"min": ["-1"], "max": ["x"], "page": ["0"], "from": ["1e9"], "trail": ["1-x-2"]}) == State(
        trail=(1, 2)
    )


def test_hostile_texts_are_text_on_the_page(tmp_path: Path) -> None:
    bad = '"><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7*7 }} \u202e'
    data = {
        "key": [bad],
        "url": ["javascript:alert(1)"],
        "caption": [bad],
        "caption_otter": [None],
        "error_otter": [bad],
    }
    save_configs(to_configs(Dataset.from_dict(data)), tmp_path / "data")
    html = rows_page(Views(open_repository(str(tmp_path / "data"))), State(q="", failed=bad, within=bad))
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "javascript:alert" not in html
    assert "{{ 7*7 }}" in html
    assert "\u202e" not in html
    searched = rows_page(Views(open_repository(str(tmp_path / "data"))), State(q=bad))
    assert "<script>alert" not in searched
