"""The paper's MLLMs as captioners, each from a tiny checkpoint with random weights, asked as their presets say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_mllm_aug import demo
from hf_mllm_aug.captioners import PRESETS, Captioner, CleanUp, engine, presets, register
from hf_mllm_aug.shearing import shear
from tests.conftest import build_llava
from tests.tiny_mllms import MAKERS

ALL: dict[str, Callable[[Path], Path]] = {"llava-1.5": build_llava, **MAKERS}
DEMO = Path(demo.__file__).parent / "demo_data"

Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Makes the checkpoint of an MLLM when it is first asked for."""
    root = tmp_path_factory.mktemp("mllms")

    def make(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else ALL[name](folder)

    return make


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    yield
    engine.unload()


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def folder(name: str, made: Made) -> Path:
    return made(name)


def captions(captioner: Captioner, pictures: list[bytes], **columns: Any) -> list[str]:
    found: list[str] = captioner({"image": pictures, **columns})[captioner.caption_column]
    return found


def test_every_mllm_of_the_paper_is_among_them() -> None:
    assert {preset.name for preset in PRESETS.values() if preset.paper and not preset.embedded} == set(ALL)


@pytest.mark.parametrize(
    ("known", "variant"), [(preset.name, variant) for preset in PRESETS.values() for variant in preset.variants]
)
def test_batched_and_single_captions_are_equal(known: str, variant: Any, made: Made, pictures: list[bytes]) -> None:
    embedded = PRESETS[known].embedded
    captioner = Captioner(known, checkpoint=None if embedded else made(known), preset=variant, batch_size=5)
    images = [file.read_bytes() for file in sorted(DEMO.glob("*.png"))[:7]] if embedded else pictures[:7]
    together = captioner({"image": images})
    single = [captioner({"image": image}) for image in images]
    for column in captioner.caption_column, captioner.error_column:
        assert [row[column] for row in single] == together[column]
    # What an embedded model has learned is its own business, but it must see.
    least = 1 if embedded else 5 if variant == "default" else 3
    assert len(set(together[captioner.caption_column])) > least


def test_a_folder_and_a_checkpoint_of_the_preset_are_the_same(name: str, folder: Path, pictures: list[bytes]) -> None:
    named = captions(Captioner(name, checkpoint=folder), pictures[:4])
    assert captions(Captioner(folder), pictures[:4]) == named
    assert captions(Captioner(folder, preset="paper"), pictures[:4]) != named


def spied(monkeypatch: pytest.MonkeyPatch, captioner: Captioner) -> list[Any]:
    """Keeps what the model's `generate` gives back."""
    model: Any = engine.loaded(captioner.model_key(None))
    original, outputs = model._model.generate, []

    def generate(**inputs: Any) -> Any:
        output = original(**inputs)
        outputs.append(output[:, inputs["input_ids"].shape[1] :])
        return output

    monkeypatch.setattr(model._model, "generate", generate)
    return outputs


def lengths(output: Any, ends: set[int]) -> list[int]:
    """How many tokens were generated for each row of a batch: what follows an end token is padding."""
    rows: list[list[int]] = output.tolist()
    return [next((at for at, token in enumerate(row) if token in ends), len(row)) for row in rows]


def test_sentence_stop_generates_less_and_gives_the_same_sheared_captions(
    name: str, folder: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants: list[dict[str, Any]] = [{}, {"preset": "paper"}, {"generation": {"min_new_tokens": 20}}]
    outputs = spied(monkeypatch, Captioner(folder))
    model: Any = engine.loaded(Captioner(folder).model_key(None))
    ends = {*model._special["eos_token_id"], model._special["pad_token_id"]}
    n_shorter = 0
    for settings in variants:
        captioner = Captioner(folder, max_new_tokens=40, batch_size=12, **settings)
        full = captions(captioner, pictures[:12])
        ended = captions(replace(captioner, sentence_stop=True), pictures[:12])
        for row in range(12):
            assert shear(ended[row]) == shear(full[row]), (settings, row)
        whole, less = (lengths(output, ends) for output in outputs[-2:])
        assert all(few <= many for few, many in zip(less, whole, strict=True)), settings
        if "preset" not in settings:  # there the full stop ends rows anyway
            n_shorter += sum(few < many for few, many in zip(less, whole, strict=True))
    assert len(outputs) == 2 * len(variants)
    assert n_shorter > 0, "no row was ended with its first sentence"


def test_a_stop_ends_each_row_and_the_captions_are_those_of_full_decoding(
    name: str, folder: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = pictures[:12]
    full = captions(Captioner(folder, max_new_tokens=40), pictures)
    common = max({c for text in full for c in text} - {" ", "\ufffd"}, key=lambda c: sum(c in text for text in full))
    clean_up = CleanUp(stops=(common,))
    base = replace(PRESETS[name], name="stopping", clean_up=clean_up, recognised_by=(), paper=None)
    try:
        register(base)
        captioner = Captioner("stopping", checkpoint=folder, max_new_tokens=40)
        outputs = spied(monkeypatch, captioner)
        expected = [clean_up(PRESETS[name].clean_up(text)) or None for text in full]
        assert captions(captioner, pictures) == expected
        late = replace(captioner, generation={"min_new_tokens": 30})
        captions(late, pictures[:5])
    finally:
        presets._PRESETS.pop("stopping", None)
    assert sum(text != cut for text, cut in zip(full, expected, strict=True)) > 3
    assert outputs[-1].shape[1] >= 30, "min_new_tokens was not respected"


def test_decoding_ends_when_every_row_has_its_stop(
    name: str, folder: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = captions(Captioner(folder, max_new_tokens=40), pictures[:1])
    letter = next(c for c in full[0] if c != "\ufffd" and not c.isspace())
    try:
        register(replace(PRESETS[name], name="stopping", clean_up=CleanUp(stops=(letter,)), paper=None))
        captioner = Captioner("stopping", checkpoint=folder, max_new_tokens=40)
        outputs = spied(monkeypatch, captioner)
        captioner({"image": pictures[:1]})
    finally:
        presets._PRESETS.pop("stopping", None)
    assert outputs[0].shape[1] < 40


def test_what_is_sampled_for_a_row_depends_on_seed_and_key_alone(
    name: str, folder: Path, pictures: list[bytes]
) -> None:
    captioner = Captioner(folder, generation={"do_sample": True, "temperature": 0.9, "top_p": 0.95}, batch_size=5)
    images, keys = [pictures[0]] * 4 + pictures[1:4], [f"k{number}" for number in range(7)]
    found = captions(captioner, images, key=keys)
    backwards = captions(replace(captioner, batch_size=4), images[::-1], key=keys[::-1])
    assert backwards[::-1] == found
    shards = [captions(captioner, images[start::3], key=keys[start::3]) for start in range(3)]
    assert [shards[row % 3][row // 3] for row in range(7)] == found
    assert len(set(found[:4])) == 4
    assert captions(replace(captioner, seed=1), images, key=keys) != found


def test_special_tokens_are_never_in_a_caption(
    name: str, folder: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner(
        folder, max_new_tokens=60, generation={"do_sample": True, "temperature": 9.0, "min_new_tokens": 60}
    )
    outputs = spied(monkeypatch, captioner)
    found = captions(captioner, pictures[:16])
    model: Any = engine.loaded(captioner.model_key(None))
    added = model._prompter.tokenizer.added_tokens_decoder
    special = {number: str(token) for number, token in added.items() if token.special}
    assert any(number in special for output in outputs for number in output.flatten().tolist())
    for text in found:
        assert not any(token in text for token in special.values()), text


def test_what_a_checkpoint_suggests_for_decoding_does_not_leak_in(
    name: str, folder: Path, pictures: list[bytes]
) -> None:
    captioner = Captioner(folder)
    plain = captions(captioner, pictures[:4])
    one_choice = {"do_sample": True, "top_k": 1}
    assert captions(replace(captioner, generation=one_choice), pictures[:4]) == plain
    assert captions(replace(captioner, generation={"repetition_penalty": 1.5}), pictures[:4]) != plain


def test_beams_are_cleaned_up_too(name: str, folder: Path, pictures: list[bytes]) -> None:
    captioner = Captioner(folder, preset="paper", generation={**_greedy(name), "num_beams": 2}, sentence_stop=True)
    batch = captioner({"image": pictures[:6]})
    texts = [text for text in batch[captioner.caption_column] if text is not None]
    assert len(texts) > 2
    assert not any("." in text for text in texts)
    prompt = captioner.resolved_prompt.partition("<image>")[2].strip()
    assert not any(prompt[:12] in text for text in texts), "the prompt is in the caption"


def _greedy(name: str) -> dict[str, Any]:
    """What undoes the sampling of the paper's variant."""
    sampled = Captioner(name, preset="paper").decoding["do_sample"]
    return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None} if sampled else {}
