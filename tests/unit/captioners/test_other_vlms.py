"""`Captioner` with tiny random checkpoints of many architectures, in the layout of their projects.

Of each: pictures of several sizes in one batch, the same captions as alone, the same sheared captions with decoding
that ends early, and pictures that make a difference. Of those without a conversation also: the captions that the lines
of their documentation give.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_mllm_aug.captioners import Captioner, engine
from hf_mllm_aug.captioners.prompters import DEFAULT_PROMPT, FORMS
from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.shearing import shear
from tests.tiny_vlms import MAKERS as TINY
from tests.tiny_vlms.idefics_base import make_idefics2_base, make_idefics3_base

MAKERS = {**TINY, "idefics2_base": make_idefics2_base, "idefics3_base": make_idefics3_base}
N_TOKENS = 16
SIZES = [(60, 48), (48, 90), (120, 40), (30, 30)]

Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Makes the checkpoint of an architecture when it is first asked for."""
    root = tmp_path_factory.mktemp("vlms")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            MAKERS[name](folder)
        return folder

    return make


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        shutil.copytree(made(name), tmp_path / "copied")
        return tmp_path / "copied"

    return copy


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Any:
    yield
    engine.unload()


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """Coloured noise in large squares."""
    squares = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize(size, Image.Resampling.NEAREST)


PICTURES = [picture(number, size) for number, size in enumerate(SIZES)]


def captioner_of(folder: Path, **settings: Any) -> Captioner:
    return Captioner(folder, device="cpu", max_new_tokens=N_TOKENS, on_error="raise", **settings)


def captions(captioner: Captioner, images: list[Image.Image]) -> list[str]:
    found: list[str] = captioner({"image": images})[captioner.caption_column]
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_pictures_of_any_size_are_captioned_in_a_batch_as_alone(name: str, made: Made) -> None:
    captioner = captioner_of(made(name))
    together = captions(captioner, PICTURES)
    model = engine.loaded(captioner.model_key(captioner.device))
    # Not one by one after a failure, which the engine would hide.
    inputs = model._prompter.inputs(PICTURES, captioner.resolved_prompt)  # type: ignore[attr-defined]
    assert inputs["input_ids"].shape[0] == len(PICTURES)
    assert inputs["attention_mask"][:, -1].all(), "a row ends in padding"
    alone = [captions(captioner, [image])[0] for image in PICTURES]
    for row, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert one == other, f"row {row}"
    assert len(set(together)) > 1, "the pictures make no difference"


@pytest.mark.parametrize("name", MAKERS)
def test_ending_at_the_first_sentence_is_shearing_all_tokens(name: str, made: Made) -> None:
    whole = captions(captioner_of(made(name)), PICTURES)
    ended = captions(captioner_of(made(name), sentence_stop=True), PICTURES)
    for row, (one, other) in enumerate(zip(whole, ended, strict=True)):
        assert shear(one) == shear(other), f"row {row}"
        assert len(other) <= len(one), f"row {row}"


def test_some_of_these_models_do_end_a_sentence_early(made: Made) -> None:
    names = ("llava", "qwen2_vl", "internvl", "gemma3")
    pairs = [
        (captions(captioner_of(made(name)), PICTURES), captions(captioner_of(made(name), sentence_stop=True), PICTURES))
        for name in names
    ]
    assert any(len(ended) < len(whole) for pair in pairs for whole, ended in zip(*pair, strict=True))


# What the documentation of each writes: the processor's arguments, and what of its tokens is the answer.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "blip": {},
    "git": {},
    "blip_2": {},
    "instructblip": {"text": "A short image description:"},
    "paligemma": {"text": "<image>caption en"},
    "florence2": {"text": "<CAPTION>"},
    "kosmos2": {"text": "An image of", "num_image_tokens": 4},
    "gemma3_pt": {"text": "<start_of_image> in this image, there is"},
    "idefics2_base": {"text": "<image>In this image, we can see"},
    "idefics3_base": {"text": "<image>In this image, we can see"},
}


def by_the_documentation(folder: Path, image: Image.Image, arguments: dict[str, Any]) -> str:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model_class, processor_class = (AutoModelForImageTextToText, AutoProcessor)
    model = model_class.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    processor = processor_class.from_pretrained(folder)  # type: ignore[no-untyped-call]
    inputs = processor(images=image, return_tensors="pt", **arguments)
    inputs.pop("labels", None)
    if model.config.model_type == "git":
        inputs = {"pixel_values": inputs["pixel_values"]}
    with torch.inference_mode():
        # BART's settings have a text that is cut off end with the end token, in place of its last word.
        (ids,) = model.generate(**inputs, max_new_tokens=N_TOKENS, do_sample=False, forced_eos_token_id=None)
    given = inputs["input_ids"][0].tolist() if "input_ids" in inputs else []
    echoed = bool(given) and ids[: len(given)].tolist() == given
    text: str = processor.tokenizer.decode(ids[len(given) if echoed else 0 :], skip_special_tokens=True)
    return text.strip()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_without_a_prompt_the_caption_is_that_of_the_documentations_lines(name: str, made: Made) -> None:
    expected = by_the_documentation(made(name), PICTURES[0], DOCUMENTED[name])
    captioner = captioner_of(made(name))
    assert captions(captioner, PICTURES)[0] == expected
    kind = json.loads((made(name) / "config.json").read_text())["model_type"]
    assert captioner.describe()["prompt"] == FORMS[kind].prompt


@pytest.mark.parametrize("place", ["chat_template.json", "processor_config.json"])
def test_a_template_counts_wherever_the_processor_finds_it(
    place: str, copied: Callable[[str], Path], made: Made
) -> None:
    """Gemma 3 is asked in two ways, and a folder, the same on the Hub, and the records must be at one."""
    folder = copied("gemma3")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / place).read_text()) if (folder / place).exists() else {}
    (folder / place).write_text(json.dumps({**settings, "chat_template": template}))
    captioner = captioner_of(folder)
    assert captions(captioner, PICTURES) == captions(captioner_of(made("gemma3")), PICTURES)
    assert captions(captioner, PICTURES) == captions(captioner_of(folder, prompt=DEFAULT_PROMPT), PICTURES)
    assert captioner.describe()["prompt"] == DEFAULT_PROMPT


def test_the_question_is_that_of_the_style_that_was_asked_for(made: Made) -> None:
    plain = captioner_of(made("gemma3"), prompt_style="plain")
    form = FORMS["gemma3"].prompt
    assert plain.describe()["prompt"] == form
    assert captions(plain, PICTURES) == captions(replace(plain, prompt=form), PICTURES)
    assert captions(plain, PICTURES) != captions(replace(plain, prompt=DEFAULT_PROMPT), PICTURES)


@pytest.mark.parametrize("name", ["llava_next", "idefics3", "gemma3"])
def test_a_conversation_is_the_one_that_the_processor_makes(name: str, made: Made) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, question = made(name), "What is on the mat?"
    processor = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    content = [{"type": "image", "image": PICTURES[1]}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        (ids,) = model.generate(**inputs, max_new_tokens=N_TOKENS, do_sample=False)
    expected = processor.tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert captions(captioner_of(folder, prompt=question), PICTURES)[1] == expected


@pytest.mark.parametrize("name", ["blip", "git"])
def test_a_prompt_is_the_beginning_that_the_model_goes_on_from(name: str, made: Made) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, prompt = made(name), "two cat"
    processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    inputs = processor(images=PICTURES[0], text=prompt, return_tensors="pt")
    if name == "git":  # its documentation leaves out the end token
        inputs = {"pixel_values": inputs["pixel_values"], "input_ids": inputs["input_ids"][:, :-1]}
    with torch.inference_mode():
        (ids,) = model.generate(**inputs, max_new_tokens=N_TOKENS, do_sample=False)
    whole = processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert whole.startswith(prompt)
    (caption,) = captions(captioner_of(folder, prompt=prompt), PICTURES[:1])
    assert whole == f"{prompt} {caption}".replace(" ##", "")
    assert caption != captions(captioner_of(folder), PICTURES[:1])[0]


def test_a_model_of_this_package_is_asked_by_its_own_processor(made: Made) -> None:
    captioner = captioner_of(made("otter"))
    model = engine.loaded(captioner.model_key(captioner.device))
    inputs = model._prompter.inputs(PICTURES[:1], "What is <image> ?")  # type: ignore[attr-defined]
    tokens = model._prompter.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])  # type: ignore[attr-defined]
    assert tokens.count("<image>") == 1
    assert captions(captioner_of(made("otter"), prompt="What?"), PICTURES) == captions(
        captioner_of(made("otter"), prompt="<image>What?"), PICTURES
    )


def config_only(folder: Path, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    """A checkpoint without weights: whoever refuses it has not looked for them."""
    folder.mkdir()
    for name, content in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("qwen2", "a language model without a part for pictures"),
        ("t5", "a language model without a part for pictures"),
        ("clip", "embeds pictures and texts"),
        ("siglip", "embeds pictures and texts"),
        ("vit", "sorts pictures into classes"),
        ("resnet", "sorts pictures into classes"),
        ("detr", "finds objects"),
        ("whisper", "writes down speech"),
        ("mistral4", "Mistral4ForCausalLM of transformers takes no pixels"),
        ("sam", "has no captioner of its kind"),
        ("no-such", "transformers has no model type 'no-such'"),
    ],
)
def test_a_model_that_captions_nothing_is_refused_by_name_before_its_weights_are_read(
    kind: str, reason: str, tmp_path: Path
) -> None:
    folder = config_only(tmp_path / f"my-{kind}", {"model_type": kind})
    with pytest.raises(CheckpointError, match=reason) as caught:
        captions(captioner_of(folder), PICTURES)
    assert f"my-{kind}" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "image_processor", "processor"),
    [
        ("llama4", "Llama4ImageProcessorFast", "Llama4Processor"),
        ("lfm2_vl", "Lfm2VlImageProcessorFast", "Lfm2VlProcessor"),
        ("mistral3", "PixtralImageProcessor", "PixtralProcessor"),
        ("llava", "PixtralImageProcessor", "PixtralProcessor"),
    ],
)
def test_a_processor_that_needs_torchvision_is_refused_with_the_reason(
    kind: str, image_processor: str, processor: str, tmp_path: Path
) -> None:
    names = {"image_processor_type": image_processor, "processor_class": processor}
    config = (
        {"model_type": kind, "vision_config": {"model_type": "pixtral"}} if kind == "llava" else {"model_type": kind}
    )
    folder = config_only(tmp_path / "needy", config, preprocessor_config=names)
    with pytest.raises(CheckpointError, match="needy: transformers prepares its pictures with torchvision only"):
        captions(captioner_of(folder), PICTURES)


def test_a_template_without_a_place_for_the_picture_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("llava_next")
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['role'] }}{% endfor %}")
    with pytest.raises(CheckpointError, match=r"copied.*leaves the picture out"):
        captions(captioner_of(folder), PICTURES)


def test_a_blip_2_of_an_older_release_is_refused_with_what_to_do(copied: Callable[[str], Path]) -> None:
    folder = copied("blip_2")
    config = json.loads((folder / "config.json").read_text())
    del config["image_token_index"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="names no token that stands for the picture"):
        captions(captioner_of(folder), PICTURES)


def test_an_older_processor_learns_from_the_model_how_many_tokens_a_picture_takes(
    copied: Callable[[str], Path], made: Made
) -> None:
    folder = copied("blip_2")
    settings = json.loads((folder / "processor_config.json").read_text())
    assert settings.pop("num_query_tokens") == 4
    (folder / "processor_config.json").write_text(json.dumps(settings))
    assert captions(captioner_of(folder), PICTURES) == captions(captioner_of(made("blip_2")), PICTURES)


def test_a_model_without_a_template_or_a_form_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("llava_next")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="copied has no chat template"):
        captions(captioner_of(folder), PICTURES)


@pytest.mark.parametrize(
    ("name", "style", "reason"),
    [
        ("git", "chat", "has no chat template, so the prompt style 'chat' does not fit"),
        ("llava_next", "plain", "no prompt form is documented for the model type llava_next"),
        ("git", "segments", "the prompt style 'segments' is LLaVA's"),
        ("git", "native", "the prompt style 'native' is for the models of this package"),
    ],
)
def test_a_style_that_does_not_fit_is_refused(name: str, style: Any, reason: str, made: Made) -> None:
    with pytest.raises(CheckpointError, match=reason):
        captions(captioner_of(made(name), prompt_style=style), PICTURES)
