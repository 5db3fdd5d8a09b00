"""The MLLMs that have a name: what they are asked, by default and as the paper's scripts ask; and whom folders belong
to.
"""

from __future__ import annotations

import html
import json
import pickle
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from PIL import Image

from hf_mllm_aug.captioners import PRESETS, Captioner, Preset, Variant, presets, register
from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.card import build_card
from hf_mllm_aug.configs import to_configs
from hf_mllm_aug.errors import CheckpointError, UsageError
from tests.card_rows import captioner_row
from tests.warm_python import python

# As the released scripts have them: prompt, decoding, what ends a caption.
MINIGPT_4 = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions.###Human: <Img><image></Img> Describe in English:###Assistant: "
)
RELEASED: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "llava-1.5": (
        "Describe <image> in English:",
        {"do_sample": True, "temperature": 0.2, "top_k": 50, "top_p": 1.0},
        {"."},
    ),
    "minigpt-4": (
        MINIGPT_4,
        {"do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 0.9},
        {"###", "."},
    ),
    "otter": (
        "<image> User: Describe in English: GPT: <answer>",
        {"do_sample": False, "no_repeat_ngram_size": 3, "num_beams": 1},
        {"<|endofchunk|>", "."},
    ),
    "qwen-vl": (
        "<image>Express emotional or artistic response:",
        {"do_sample": False, "min_new_tokens": 8, "length_penalty": 0, "num_beams": 1},
        {"."},
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_papers_variant_is_what_its_scripts_do(name: str) -> None:
    prompt, decoding, stops = RELEASED[name]
    captioner = Captioner(name, preset="paper")
    request = captioner.request
    assert request.prompt == prompt
    assert request.decoding == {**NEUTRAL, **decoding}
    assert request.max_new_tokens == 30
    assert set(request.clean_up.stops) == stops


@pytest.mark.parametrize("name", RELEASED)
def test_by_default_a_caption_depends_on_the_picture_alone(name: str) -> None:
    captioner = Captioner(name)
    assert captioner.decoding["do_sample"] is False
    assert "." not in captioner.variant.clean_up.stops, "shearing decides where a sentence ends"
    assert re.search("[Dd]escribe", captioner.resolved_prompt)
    assert captioner.resolved_prompt.count("<image>") == 1


def test_the_miniature_is_asked_as_the_model_that_it_is_a_miniature_of() -> None:
    assert PRESETS["tiny-llava"].variants == PRESETS["llava-1.5"].variants


def test_arguments_count_more_than_the_variant() -> None:
    captioner = Captioner("qwen-vl", preset="paper", prompt="<image>What?", generation={"min_new_tokens": 2})
    assert (captioner.resolved_prompt, captioner.decoding["min_new_tokens"]) == ("<image>What?", 2)
    assert captioner.decoding["length_penalty"] == 0


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_both_variants_are_described_with_what_they_resolve_to(name: str) -> None:
    for variant in ("default", "paper"):
        described = Captioner(name, preset=variant).describe()
        assert (described["preset"], described["variant"]) == (name, variant)
        assert described["variants"].keys() == {"default", "paper"}
        chosen = described["variants"][variant]
        assert chosen["prompt"] == described["prompt"]
        assert chosen["clean_up"] == described["clean_up"]
        assert chosen["decoding"].items() <= described["decoding"].items()
        assert json.loads(json.dumps(described)) == described
        assert described["licence"]
        assert described["citation"].startswith("@")


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_the_variants_hash_differently(name: str) -> None:
    hashes = {Hasher.hash(Captioner(name, preset=variant)) for variant in ("default", "paper")}
    assert len(hashes) == 2
    copied = pickle.loads(pickle.dumps(Captioner(name, preset="paper")))
    assert Hasher.hash(copied) in hashes
    assert copied.request == Captioner(name, preset="paper").request


# Registering


def test_names_of_presets_are_unique_and_no_paths(own_preset: Preset) -> None:
    with pytest.raises(UsageError, match="'mine-2' is registered already"):
        register(own_preset)
    with pytest.raises(UsageError, match="slash"):
        register(replace(own_preset, name="a/b"))


def test_a_preset_that_cannot_be_asked_is_not_registered(own_preset: Preset) -> None:
    bad = [
        (replace(own_preset, name="x", decoding={"temprature": 1}), "did you mean 'temperature'"),
        (replace(own_preset, name="x", paper=Variant("<image><image>")), "more than once"),
        (replace(own_preset, name="x", source=None), "say with make="),
    ]
    for preset, message in bad:
        with pytest.raises(UsageError, match=message):
            register(preset)
    assert "x" not in PRESETS


def test_ones_own_preset_may_have_the_variant_too(own_preset: Preset) -> None:
    with pytest.raises(UsageError, match=r"'mine-2' has no variant 'paper'"):
        Captioner("mine-2", preset="paper")
    presets._PRESETS["mine-2"] = replace(own_preset, paper=Variant("Name <image>"))
    assert Captioner("mine-2", preset="paper").resolved_prompt == "Name <image>"


# Checkpoints


def folder_of(path: Path, **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama"},
    "vision_config": {"model_type": "clip_vision_model"},
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llava-1.5", LLAVA),
        ("minigpt-4", {"model_type": "minigpt4"}),
        ("otter", {"model_type": "otter"}),
        ("qwen-vl", {"model_type": "qwen", "visual": {"width": 1664}}),
        ("qwen-vl", {"model_type": "qwen", "vision_config": {"hidden_size": 1664}}),
    ],
)
def test_a_folder_is_asked_as_its_architecture_is(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "Mine.7b", **config)
    for variant in ("default", "paper"):
        mine, known = Captioner(folder, preset=variant), Captioner(name, preset=variant)
        assert mine.request == known.request
        assert mine.resolved_prompt_style == known.resolved_prompt_style
        assert mine.micro_batch == known.micro_batch
    assert mine.caption_column == "caption_mine_7b"
    assert mine.describe()["preset"] == name
    assert mine.describe()["licence"] is None, "whose weights these are is not known"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "qwen"},  # a language model
        {"model_type": "qwen2_vl", "vision_config": {}},
        {**LLAVA, "text_config": {"model_type": "mistral"}},
        {**LLAVA, "vision_config": {"model_type": "pixtral"}},
    ],
)
def test_other_folders_are_asked_as_before(config: dict[str, Any], tmp_path: Path) -> None:
    captioner = Captioner(folder_of(tmp_path / "other", **config))
    assert captioner.mllm is None
    assert captioner.resolved_prompt_style == "auto"
    assert captioner.request.clean_up.describe() == {}
    with pytest.raises(UsageError, match="'other' has no variant 'paper'"):
        Captioner(tmp_path / "other", preset="paper")


def test_a_damaged_config_is_nobodys(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "broken")
    for text in ("{", "[]", "null"):
        (folder / "config.json").write_text(text)
        assert Captioner(folder).mllm is None


def test_a_folder_that_changes_is_read_anew(tmp_path: Path) -> None:
    captioner = Captioner(folder_of(tmp_path / "mine", model_type="otter"))
    assert captioner.describe()["preset"] == "otter"
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"model_type": "minigpt4"}))
    assert captioner.describe()["preset"] == "minigpt-4"


def test_the_hub_id_of_a_preset_is_asked_as_the_preset() -> None:
    captioner = Captioner("Qwen/Qwen-VL")
    assert captioner.request == Captioner("qwen-vl").request
    assert captioner.caption_column == "caption_qwen_qwen_vl"


def test_minigpt_4_says_how_to_make_its_checkpoint() -> None:
    captioner = Captioner("minigpt-4")
    with pytest.raises(CheckpointError, match=r"hf-mllm-aug convert minigpt-4 .*checkpoint=FOLDER\)\.$"):
        captioner({"image": Image.new("RGB", (8, 8))})
    assert captioner.describe()["model"] == "minigpt-4"


def test_a_folder_that_is_called_like_the_preset_is_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "minigpt-4", model_type="minigpt4")
    with pytest.raises(CheckpointError, match=r"A folder of this name is here: checkpoint='\./minigpt-4'$"):
        Captioner("minigpt-4").model_key("cpu")
    assert Captioner("minigpt-4", checkpoint="./minigpt-4").model_key("cpu").source == str(tmp_path / "minigpt-4")


def test_a_checkpoint_of_ones_own_takes_the_place_of_the_presets(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "converted", model_type="minigpt4")
    captioner = Captioner("minigpt-4", checkpoint=folder)
    assert captioner.request == Captioner("minigpt-4").request
    assert captioner.caption_column == "caption_minigpt_4"
    assert captioner.model_key("cpu").source == str(folder)
    described = captioner.describe()
    assert described["digest"] is not None
    assert str(tmp_path) not in str(described)
    on_the_hub = Captioner("minigpt-4", checkpoint="me/minigpt-4")
    assert (on_the_hub.model_key("cpu").source, on_the_hub.describe()["model"]) == ("me/minigpt-4", "me/minigpt-4")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "converted", model_type="otter")
    with pytest.raises(UsageError, match=r"'converted' is no minigpt-4: its config.json names the model type 'otter'"):
        Captioner("minigpt-4", checkpoint=folder)


def test_a_revision_of_the_preset_does_not_apply_to_another_checkpoint(own_preset: Preset) -> None:
    presets._PRESETS["mine-2"] = replace(own_preset, revision="0123abc")
    assert Captioner("mine-2").resolved_revision == "0123abc"
    assert Captioner("mine-2", checkpoint="me/other").resolved_revision is None


def test_where_a_checkpoint_stands_is_no_part_of_the_hash(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / name, model_type="minigpt4") for name in ("one", "two")]
    one, two = (Captioner("minigpt-4", checkpoint=folder) for folder in folders)
    assert Hasher.hash(one) == Hasher.hash(two)
    (folders[1] / "config.json").write_text(json.dumps({"model_type": "minigpt4", "ln_vision_eps": 1e-6}))
    assert Hasher.hash(one) != Hasher.hash(two)


def test_the_hash_of_a_named_captioner_does_not_depend_on_what_the_process_did_before(random_llava: Path) -> None:
    captioner = Captioner("llava-1.5", name="mine")
    before = Hasher.hash(captioner)
    Captioner(random_llava)
    assert Hasher.hash(captioner) == before


# What is recorded


def asked(captioner: Captioner) -> tuple[str, str]:
    """What its card says of how it was asked, and with which settings."""
    rows = {"key": ["a"], "url": [None], "caption": ["a bus"], captioner.caption_column: ["A red bus"]}
    card = build_card(to_configs(Dataset.from_dict(rows), captioners=captioner), captioners=captioner)
    name = captioner.label.replace("/", "--")
    variant = [html.unescape(text) for text in re.findall(r"<p>(variant .*?)</p>", card.text)]
    return " ".join([captioner_row(card, name, "prompt"), *variant]), captioner_row(card, name, "decoding")


@pytest.mark.parametrize("variant", ["default", "paper"])
@pytest.mark.parametrize("name", sorted(RELEASED))
def test_the_card_records_both_variants_whichever_was_asked(name: str, variant: Any) -> None:
    captioner = Captioner(name, preset=variant)
    (other,) = set(captioner.describe()["variants"]) - {variant}
    question, settings = asked(captioner)
    assert question.startswith(captioner.resolved_prompt.strip())
    head, _, recorded = question.partition("; ")
    assert f"variant {variant} of {name}" in head
    assert "overridden" not in head
    assert recorded.startswith(f"variant {other} asks ")
    alternative = PRESETS[name].variants[other]
    same = alternative.prompt == captioner.resolved_prompt
    assert ("asks the same" if same else f'asks "{alternative.prompt}"') in recorded
    for parameter, value in alternative.decoding.items():
        assert f"{parameter}={value}" in recorded
    for stop in alternative.clean_up.stops:
        assert f'"{stop}"' in recorded.partition("cleans up stops")[2]
    assert ("cleans up nothing" in recorded) == (not alternative.clean_up.describe())
    for stop in captioner.variant.clean_up.stops:
        assert f'"{stop}"' in settings.partition("clean_up=stops")[2]
    assert ("clean_up" in settings) == bool(captioner.variant.clean_up.describe())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "<image>What?"}, "variant paper of otter, prompt overridden; variant default"),
        ({"generation": {"num_beams": 2}}, "variant paper of otter, decoding overridden; "),
        (
            {"prompt": "<image>What?", "generation": {"no_repeat_ngram_size": None}},
            "variant paper of otter, prompt and decoding overridden; ",
        ),
        ({"prompt": PRESETS["otter"].prompt, "generation": {"no_repeat_ngram_size": 3}}, "variant paper of otter; "),
    ],
)
def test_the_card_says_what_was_not_asked_as_the_variant_asks(changes: dict[str, Any], words: str) -> None:
    question, _ = asked(Captioner("otter", preset="paper", **changes))
    assert words in question


def test_a_captioner_without_a_preset_has_no_variant_in_its_card() -> None:
    assert "variant" not in asked(Captioner("org/name"))[0]


def test_what_is_said_of_published_weights_is_said_of_no_others(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tuned", **LLAVA)
    preset = PRESETS["llava-1.5"]
    for captioner in (Captioner("llava-1.5"), Captioner(str(preset.source))):
        described = captioner.describe()
        assert (described["licence"], described["description"]) == (preset.licence, preset.description)
    for captioner in (Captioner("llava-1.5", checkpoint="me/other"), Captioner("llava-1.5", checkpoint=folder)):
        described = captioner.describe()
        assert (described["licence"], described["description"]) == (None, "")
    assert Captioner("tiny-llava", checkpoint="me/other").describe()["licence"] is None


def test_a_converted_checkpoint_has_the_licence_of_its_parts_and_no_size_that_nobody_knows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "converted", model_type="minigpt4")
    described = Captioner("minigpt-4", checkpoint=folder).describe()
    assert described["licence"] == PRESETS["minigpt-4"].licence
    assert not re.search(r"\d+B", described["description"])


def test_without_their_package_the_other_miniatures_are_named_and_not_there() -> None:
    code = (
        "import sys; sys.modules['hf_mllm_aug_miniatures'] = None\n"
        "from PIL import Image\n"
        "from hf_mllm_aug import Captioner, demo\n"
        "print(demo.captioners())\n"
        "try:\n"
        "    Captioner('tiny-otter')({'image': Image.new('RGB', (8, 8))})\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([*python(), "-c", code], capture_output=True, text=True, check=True)
    embedded, failure = done.stdout.splitlines()
    assert embedded == "['tiny-llava']"
    assert "'tiny-otter' needs the package hf-mllm-aug-miniatures, which is not installed" in failure
    assert "pip install ./miniatures" in failure
