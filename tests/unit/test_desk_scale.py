import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from benchmarks.desk_scale import clip_art, encoder, pixels, report
from benchmarks.desk_scale.arms import ARMS, Arm, captions, draw
from benchmarks.desk_scale.captions import MINIATURES
from benchmarks.desk_scale.held_out import PictureSet
from benchmarks.desk_scale.pretrain import Run, Settings, load_hits, run_arm, view
from benchmarks.desk_scale.study import collect
from hf_mllm_aug import schema

ROWS = 40


@pytest.fixture
def rows() -> Dataset:
    """The config `all` of a data set that four captioners wrote."""
    columns: dict[str, list[str | None]] = {
        schema.KEY: [str(row) for row in range(ROWS)],
        schema.CAPTION: [f"title {row}" for row in range(ROWS)],
    }
    for name in MINIATURES:
        own = [f"A thing {row} by {name}" for row in range(ROWS)]
        columns[schema.caption_column(name)] = [None, *own[1:]]
        columns[schema.generated_column(name)] = [None, *(f"{text}. It is filed." for text in own[1:])]
    return Dataset.from_dict(columns)


def arm(name: str) -> Arm:
    (found,) = [arm for arm in ARMS if arm.name == name]
    return found


def test_the_titles_are_those_of_the_drawings() -> None:
    svg = "<metadata><cc:Work><dc:title> A  b </dc:title><dc:creator><dc:title>Ann</dc:title></dc:creator></cc:Work>"
    assert clip_art.title(svg) == "A b"
    assert clip_art.title("<svg/>") is None


def test_pairs_leave_out_what_has_no_title_or_is_filed_twice(tmp_path: Path) -> None:
    for name, title in (("cat", "Cat"), ("dog", ""), ("lost", "Lost")):
        (tmp_path / "svg").mkdir(exist_ok=True)
        (tmp_path / "png").mkdir(exist_ok=True)
        (tmp_path / "svg" / f"{name}.svg").write_text(f"<cc:Work><dc:title>{title}</dc:title></cc:Work>")
        if name != "lost":
            (tmp_path / "png" / f"{name}.png").write_bytes(b"")
    (tmp_path / "svg" / "kitty.svg").symlink_to("cat.svg")
    (tmp_path / "png" / "kitty.png").symlink_to("cat.png")
    pairs = clip_art.pairs(tmp_path)
    assert (pairs[schema.KEY][:], pairs[schema.CAPTION][:]) == (["cat"], ["Cat"])


def test_every_arm_draws_from_its_own_captions(rows: Dataset) -> None:
    seen = {arm.name: set() for arm in ARMS}  # type: ignore[var-annotated]
    for each in ARMS:
        columns = captions(each, rows)
        for epoch in range(20):
            seen[each.name] |= set(draw(each, columns, seed=0, epoch=epoch))
    titles = set(rows[schema.CAPTION][:])
    written = {name: set(rows[schema.caption_column(name)][1:]) for name in MINIATURES}
    assert seen["raw"] == titles
    assert seen["tiny-otter"] == titles | written["tiny-otter"]
    assert seen["two"] == titles | written[MINIATURES[0]] | written[MINIATURES[1]]
    assert seen["four"] == titles.union(*written.values())
    # A picture without new captions keeps its raw one: no arm loses a row.
    assert seen["four-no-raw"] == set().union(*written.values()) | {"title 0"}
    assert {text for text in seen["four-unsheared"] if text.endswith("filed.")}


def test_the_control_has_the_captions_of_other_pictures(rows: Dataset) -> None:
    shuffled, own = captions(arm("four-shuffled"), rows), captions(arm("four"), rows)
    for name in map(schema.caption_column, MINIATURES):
        assert sorted(map(str, shuffled[name])) == sorted(map(str, own[name]))
        assert sum(a == b for a, b in zip(shuffled[name], own[name], strict=True)) < ROWS / 4
    assert shuffled[schema.CAPTION] == own[schema.CAPTION]


def test_sheared_to_the_raw_length_no_caption_has_more_words_than_the_title(rows: Dataset) -> None:
    texts = captions(arm("four-raw-length"), rows)[schema.caption_column("tiny-otter")]
    assert texts[:3] == [None, "A thing", "A thing"]


def test_equal_captions_of_a_batch_are_right_for_one_another() -> None:
    alike = torch.tensor([[9.0, 9.0, -99.0], [9.0, 9.0, -99.0], [-99.0, -99.0, 9.0]])
    assert encoder.contrastive_loss(alike, torch.tensor([0, 0, 1])).item() == pytest.approx(2 / 3 * np.log(2))
    crossed = torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    grouped = encoder.contrastive_loss(crossed, torch.tensor([0, 0]))
    assert grouped < encoder.contrastive_loss(crossed, torch.tensor([0, 1])) - 4


def test_a_clean_view_is_the_picture_and_a_distorted_one_follows_its_generator() -> None:
    picture = torch.full((2, pixels.SIDE, pixels.SIDE, 3), 255, dtype=torch.uint8)
    picture[:, 20:50, 30:40] = 0
    clean = view(picture, pixels.SIDE)
    assert len(set(clean.flatten().tolist())) == 2
    first, again, other = (view(picture, 48, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_padding_changes_no_embedding() -> None:
    tokenizer = encoder.train_tokenizer(["a red bus", "a tram in the street by the river"])
    model = encoder.SmallClip(tokenizer.get_vocab_size(), width=4).eval()
    alone = model.embed_captions(encoder.encode(tokenizer, ["a red bus"]))
    beside = model.embed_captions(encoder.encode(tokenizer, ["a red bus", "a tram in the street by the river", ""]))
    assert torch.allclose(alone[0], beside[0], atol=1e-6)
    assert torch.isfinite(beside).all()


def test_a_study_of_few_steps_gives_every_score_and_the_same_ones_again(rows: Dataset, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = random.integers(0, 256, (ROWS, pixels.SIDE, pixels.SIDE, 3), dtype=np.uint8)
    sets = {"vendor": PictureSet(drawn[:12], [f"thing {row}" for row in range(12)])}
    sets |= {"training_stamps": PictureSet(drawn[:16], [f"A thing {row}." for row in range(16)])}
    settings = dataclasses.replace(Settings(), epochs=1, batch=8, side=48, early_side=32, width=4, tuning_epochs=1)
    tokenizer = encoder.train_tokenizer(rows[schema.CAPTION][:])
    for each in (*ARMS, arm("four")):
        columns = captions(each, rows)

        def drawn_by(epoch: int, each: Arm = each, columns: dict[str, list[str | None]] = columns) -> list[str | None]:
            return draw(each, columns, seed=0, epoch=epoch)

        run = Run(
            columns, drawn_by, drawn, np.arange(ROWS) > 0, tokenizer, sets, ["vendor"], "training_stamps", 0, "cpu"
        )
        before = load_hits(tmp_path / "four-0.npz") if (tmp_path / "four-0.npz").exists() else None
        run_arm(run, settings, tmp_path / f"{each.name}-0.npz")
        if each.name == "four" and before is not None:
            after = load_hits(tmp_path / "four-0.npz")
            assert after.record["loss"] == pytest.approx(before.record["loss"], rel=1e-3)
    found = collect(tmp_path, ["vendor"], ["zero_shot", "fine_tuned"], seeds=1)
    assert list(found) == [each.name for each in ARMS]
    scores = found["four"]["zero_shot.vendor"]["mean_recall@10"]
    assert 0 <= scores["mean"] <= 100
    assert scores["gain_over_raw"][1] <= scores["gain_over_raw"][0] <= scores["gain_over_raw"][2]
    assert found["raw"]["zero_shot.vendor"]["mean_recall@10"]["gain_over_raw"] == [0, 0, 0]


def test_the_report_is_that_of_the_results_file() -> None:
    result = json.loads(report.RESULT.read_text("utf-8"))
    assert report.REPORT.read_text("utf-8") == report.render(result), "run: python -m benchmarks.desk_scale.report"
    assert "{{" not in report.REPORT.read_text("utf-8")
    assert len([line for line in report.overview(result, "zero_shot").splitlines() if line]) == 2 + len(ARMS)
