"""What the prompters of each style give a model, and how a checkpoint's style is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners.engine import ModelKey
from hf_mllm_aug.captioners.prompters import DOCUMENTED, FORMS, documented_prompt, halves, load_prompter
from hf_mllm_aug.captioners.prompters.chat import ChatPrompter
from hf_mllm_aug.captioners.prompters.native import NativePrompter, is_native
from hf_mllm_aug.captioners.prompters.segments import SegmentPrompter
from hf_mllm_aug.errors import UsageError
from tests.tiny_vlms import MAKERS


def prompter_of(folder: Path, style: str = "auto") -> Any:
    from transformers import AutoConfig

    kind: Any = AutoConfig
    return load_prompter(ModelKey("transformers", str(folder), prompt_style=style), kind.from_pretrained(folder))


def test_the_package_is_imported_without_torch_and_transformers() -> None:
    code = "import sys, hf_mllm_aug.captioners.prompters; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_halves_of_a_prompt() -> None:
    assert halves("Describe <image> in English:") == ("Describe ", " in English:")
    assert halves("<image>What?") == ("", "What?")
    assert halves("What?") == ("", "What?")
    with pytest.raises(UsageError, match="more than once"):
        halves("<image><image>")


def test_segments_stand_on_both_sides_of_the_picture(random_llava: Path) -> None:
    prompter = prompter_of(random_llava)
    assert isinstance(prompter, SegmentPrompter)
    image = Image.new("RGB", (90, 50))
    batch = prompter.inputs([image, image], "Describe <image> in English:")
    tokenizer = prompter.tokenizer
    mark = tokenizer.convert_tokens_to_ids("<image>")
    ids = batch["input_ids"].tolist()
    assert ids[0] == ids[1]
    first, last = ids[0].index(mark), len(ids[0]) - ids[0][::-1].index(mark)
    assert ids[0][first:last] == [mark] * 9  # 42 pixels in patches of 14
    assert ids[0][0] == tokenizer.bos_token_id
    assert ids[0].count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[0][1:first]) == "Describe "
    assert tokenizer.decode(ids[0][last:]) == " in English:"


def test_llamas_lone_space_before_the_second_segment_is_kept() -> None:
    from transformers import LlamaTokenizer

    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    characters = sorted(set("▁Describe in English:"))
    merges = [("▁", "i"), ("▁i", "n")]
    pieces += [*characters, "▁i", "▁in"]
    kind: Any = LlamaTokenizer
    tokenizer = kind(vocab={piece: token for token, piece in enumerate(pieces)}, merges=merges)

    class Config:
        image_token_id = 9999
        vision_feature_select_strategy = "default"

        class vision_config:  # noqa: N801 - a stand-in for a configuration
            patch_size = 14
            model_type = "clip_vision_model"

    ids = SegmentPrompter(None, tokenizer, Config()).prompt_ids("Describe <image> in English:", 2)
    tokens = [tokenizer.convert_ids_to_tokens(token) if token != 9999 else "IMAGE" for token in ids]
    end = tokens.index("IMAGE")
    # As the original: ..., "▁", the picture, "▁", "▁in", ...
    assert tokens[0] == "<s>"
    assert tokens[end - 1 : end + 4] == ["▁", "IMAGE", "IMAGE", "▁", "▁in"]


def test_a_chat_template_gives_left_padded_rows_without_torchvision(random_qwen2_vl: Path) -> None:
    prompter = prompter_of(random_qwen2_vl)
    assert isinstance(prompter, ChatPrompter)
    images = [Image.new("RGB", (60, 60)), Image.new("RGB", (112, 112))]
    batch = prompter.inputs(images, "Describe <image> in English:")
    mask = batch["attention_mask"].tolist()
    assert mask[0][0] == 0
    assert mask[0][-1] == mask[1][0] == 1
    text = prompter.tokenizer.decode(batch["input_ids"][1])
    assert text.startswith("<|im_start|>user\nDescribe<|vision_start|><|image_pad|>")
    assert text.endswith("<|vision_end|>in English:<|im_end|>\n<|im_start|>assistant\n")


def test_smolvlms_pictures_are_written_as_its_own_processor_does(tmp_path: Path) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    write: Any = processing_smolvlm.get_image_prompt_string
    prompter = prompter_of(MAKERS["smolvlm"](tmp_path))
    image = Image.new("RGB", (120, 40))
    tiles = prompter._processor.image_processor([[image]], return_row_col_info=True)
    (rows,), (columns,) = tiles["rows"][0], tiles["cols"][0]
    assert rows * columns > 1
    written = write(rows, columns, 1, "<fake_token_around_image>", "<image>", "<global-img>")
    text = f"<|im_start|>user\nA{written}mat.<|im_end|>\n<|im_start|>assistant\n"
    ids = prompter.inputs([image], "A <image> mat.")["input_ids"][0].tolist()
    assert ids == prompter.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("name", "prompt", "text"),
    [
        ("blip", "a <image> dog", "[CLS] a dog [SEP]"),
        ("git", "a dog", "[CLS] a dog"),
        ("git", DOCUMENTED, "[CLS]"),
        ("blip_2", "A dog.", "<image><image><image><image><s> A dog."),
        ("florence2", "<CAPTION>", "<image><image><s> What does the image describe?</s>"),
        ("kosmos2", DOCUMENTED, '<s><image>!"#$</image> An image of'),
        ("paligemma", DOCUMENTED, "<image><image><image><image><s> caption en<unk>"),  # its tokenizer lacks "\n"
    ],
)
def test_what_a_model_without_a_conversation_is_given(name: str, prompt: str, text: str, tmp_path: Path) -> None:
    prompter = prompter_of(MAKERS[name](tmp_path))
    batch = prompter.inputs([Image.new("RGB", (60, 48))] * 2, prompt)
    for row in batch["input_ids"]:
        assert prompter.tokenizer.decode(row) == text
    assert "labels" not in batch


def test_a_native_processor_is_given_the_prompt_with_the_picture_first_unless_it_says_where(tmp_path: Path) -> None:
    prompter = prompter_of(MAKERS["otter"](tmp_path))
    assert isinstance(prompter, NativePrompter)
    image = Image.new("RGB", (60, 48))

    def decoded(prompt: str) -> str:
        text: str = prompter.tokenizer.decode(prompter.inputs([image], prompt)["input_ids"][0])
        return text.replace(" ", "")

    assert decoded("A dog.") == "<s><image>Adog."
    assert decoded("A <image> dog.") == "<s>A<image>dog."


def test_native_models_are_told_by_their_configuration(random_llava: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    kind: Any = AutoConfig
    assert not is_native(kind.from_pretrained(random_llava))
    assert is_native(kind.from_pretrained(MAKERS["otter"](tmp_path)))


def folder_of(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_documented_prompt_of_a_folder_is_known_without_loading_it(tmp_path: Path) -> None:
    assert documented_prompt(tmp_path) is None
    assert documented_prompt(folder_of(tmp_path, config="{")) is None
    assert documented_prompt(folder_of(tmp_path, config=[])) is None
    assert documented_prompt(folder_of(tmp_path, config={"model_type": "paligemma"})) == "caption en"
    assert documented_prompt(folder_of(tmp_path, config={"model_type": "qwen2_vl"})) == "Describe the image in English:"
    assert documented_prompt(folder_of(tmp_path, config={"model_type": "gemma3"})) == "in this image, there is"
    # One that was taught conversations is asked as in a conversation.
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert documented_prompt(tmp_path) == "Describe the image in English:"
    assert documented_prompt(tmp_path, "plain") == "in this image, there is"
    (tmp_path / "chat_template.jinja").unlink()
    assert documented_prompt(tmp_path, "chat") == "Describe the image in English:"


def test_every_form_is_of_a_captioner_of_transformers_and_says_where_it_is_from() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    for kind, form in FORMS.items():
        assert kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, kind
        assert form.source.startswith(("https://", "arXiv ")), kind
        assert "{prompt}" in form.text, kind
