"""The paper's MLLMs on the Hub: what they are shows when they are loaded, and decides who may ask them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners import Captioner, engine
from hf_mllm_aug.errors import CheckpointError
from tests.tiny_mllms import MAKERS

LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama"},
    "vision_config": {"model_type": "clip_vision_model"},
}


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    yield
    engine.unload()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the folder of a Hub model that was downloaded before; the Hub itself is out of reach."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def cached(name: str, **config: Any) -> Path:
        home, commit = cache / f"models--{name.replace('/', '--')}", "0" * 40
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        (home / "snapshots").mkdir()
        folder = home / "snapshots" / commit
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return cached


def test_the_question_of_a_hub_model_is_recorded_once_it_is_known(hub_cache: Callable[..., Path]) -> None:
    captioner = Captioner("org/some-paligemma")
    before = captioner.describe()["prompt"]
    hub_cache("org/some-paligemma", model_type="paligemma")
    assert captioner.describe()["prompt"] == "caption en" != before


def refused(captioner: Captioner) -> str:
    with pytest.raises(CheckpointError) as caught:
        captioner({"image": Image.new("RGB", (8, 8))})
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_an_mllm_of_the_paper_on_the_hub_is_captioned_with_under_its_presets_name_only(
    name: str, hub_cache: Callable[..., Path], pictures: list[bytes]
) -> None:
    folder = hub_cache("me/mine")
    MAKERS[name](folder)
    message = refused(Captioner("me/mine"))
    assert f"me/mine is of the architecture of {name}" in message
    assert f"To do: Captioner('{name}', checkpoint='me/mine')" in message
    assert refused(Captioner("me/mine", prompt="<image>What?")) == message, "the clean-up would be missing"
    given, local = (Captioner(name, checkpoint=place) for place in ("me/mine", folder))
    expected = local({"image": pictures[:3]})[local.caption_column]
    assert given({"image": pictures[:3]})[given.caption_column] == expected


def test_an_mllm_on_the_hub_is_not_asked_as_another_one_is(hub_cache: Callable[..., Path]) -> None:
    MAKERS["otter"](hub_cache("me/an-otter"))
    for name in ("minigpt-4", "qwen-vl", "llava-1.5"):
        message = refused(Captioner(name, checkpoint="me/an-otter"))
        assert f"me/an-otter is no {name}" in message
        assert "To do: Captioner('otter', checkpoint=...)" in message


@pytest.mark.parametrize("part", ["text", "vision"])
def test_a_llava_of_other_parts_is_no_llava_1_5_on_the_hub_either(part: str, hub_cache: Callable[..., Path]) -> None:
    other = {"text": "mistral", "vision": "siglip_vision_model"}[part]
    config = {**LLAVA, f"{part}_config": {"model_type": other}}
    hub_cache("me/bakllava", **config)
    message = refused(Captioner("llava-1.5", checkpoint="me/bakllava"))
    assert "me/bakllava is no llava-1.5" in message
    assert f"{part} '{other}'" in message


def test_two_presets_of_one_checkpoint_are_both_held_against_it(hub_cache: Callable[..., Path]) -> None:
    """One that was loaded under its own name is not handed to a captioner of another."""
    MAKERS["otter"](hub_cache("me/an-otter"))
    assert Captioner("otter", checkpoint="me/an-otter")({"image": Image.new("RGB", (8, 8))})
    assert "is no minigpt-4" in refused(Captioner("minigpt-4", checkpoint="me/an-otter"))
