"""Otter's processor: the original's ids and pixels, for original folders as for our own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.otter import OtterConfig, OtterImageProcessor, OtterProcessor

PROMPT = "<image> User: Describe in English: GPT: <answer>"
ADDED = ["<|endofchunk|>", "<image>", "<answer>", "<PAD>"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(320, 240), (200, 333), (224, 224), (97, 61), (500, 224)]


def base_tokenizer() -> Any:
    """As GPT-NeoX's: byte-level BPE, an end and a padding token first, added tokens for runs of spaces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["User: Describe in English: GPT: a dog, two red buses. <", " User: what? GPT: "] * 9, trainer
    )
    tokenizer.add_tokens([AddedToken("   ", normalized=True), AddedToken("  ", normalized=True)])
    return tokenizer


def save_tokenizer(folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    base_tokenizer().save(str(folder / "tokenizer.json"))
    # As mosaicml/mpt-7b-instruct has it: no padding token.
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "GPTNeoXTokenizer", "clean_up_tokenization_spaces": True, **names, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_config(folder: Path, **settings: Any) -> Path:
    """As the original's config.json, which does not say which token is which."""
    folder.mkdir(exist_ok=True)
    stored = json.loads((Path(__file__).parents[2] / "fixtures/golden_otter/checkpoint/config.json").read_text())
    first = base_tokenizer().get_vocab_size()
    stored["text_config"] |= {"vocab_size": first + 60} | settings.pop("text_config", {})
    stored |= {"image_token_id": first + 1} | settings
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)


def by_hand(image: Image.Image, side: int = 224) -> NDArray[np.float64]:
    """Shortest side to `side`, bicubic, the longer one cut down to a whole number; the centre; CLIP's numbers."""
    width, height = image.size
    short = min(width, height)
    size = (side if width == short else side * width // short, side if height == short else side * height // short)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    values = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float64) / 255
    normed: NDArray[np.float64] = ((values - MEAN) / STD).transpose(2, 0, 1)
    return normed


@pytest.fixture
def processor(tmp_path: Path) -> OtterProcessor:
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    return OtterProcessor(OtterImageProcessor(), auto.from_pretrained(save_tokenizer(tmp_path / "tokenizer")))


class TestPrompts:
    def test_the_published_prompt_gives_the_originals_ids(self, processor: OtterProcessor) -> None:
        """Without any knowledge of added tokens: the text between them, and their places behind the vocabulary."""
        base = base_tokenizer()
        first = base.get_vocab_size()
        ids = processor([picture((60, 40))], [PROMPT])["input_ids"][0]
        assert ids == [first + 1, *base.encode(" User: Describe in English: GPT: ").ids, first + 2]

    def test_the_added_tokens_stand_behind_the_vocabulary_in_the_originals_order(
        self, processor: OtterProcessor
    ) -> None:
        first = base_tokenizer().get_vocab_size()
        assert processor.tokenizer.convert_tokens_to_ids(ADDED) == [first, first + 1, first + 2, first + 3]
        assert len(processor.tokenizer) == first + 4
        assert processor.image_token_id == first + 1
        assert processor.tokenizer.pad_token == "<PAD>"

    def test_a_tokenizer_that_has_them_keeps_them(self, processor: OtterProcessor) -> None:
        known = processor.tokenizer.get_vocab()
        again = OtterProcessor(OtterImageProcessor(), processor.tokenizer)
        assert again.tokenizer.get_vocab() == known

    def test_shorter_prompts_are_padded_on_the_left(self, processor: OtterProcessor) -> None:
        prompts = [PROMPT, "<image> User: what? GPT: <answer>"]
        both = processor([picture((60, 40)), picture((40, 60))], prompts, return_tensors="pt")
        alone = [processor([picture((60, 40))], [prompt])["input_ids"][0] for prompt in prompts]
        assert isinstance(both["input_ids"], torch.Tensor)
        length = len(alone[0])
        assert len(alone[1]) < length
        padding = length - len(alone[1])
        pad = processor.tokenizer.pad_token_id
        assert both["input_ids"].tolist() == [alone[0], [pad] * padding + alone[1]]
        assert both["attention_mask"].tolist() == [[1] * length, [0] * padding + [1] * len(alone[1])]

    def test_ids_become_text_again(self, processor: OtterProcessor) -> None:
        ids = processor.tokenizer(" a dog, two red buses .<|endofchunk|>")["input_ids"]
        assert processor.decode(ids) == " a dog, two red buses .<|endofchunk|>"
        assert processor.decode(ids, skip_special_tokens=True) == " a dog, two red buses ."

    @pytest.mark.parametrize(("prompt", "times"), [("User:", 0), ("<image><image> User:", 2)])
    def test_a_prompt_marks_its_picture_once(self, prompt: str, times: int, processor: OtterProcessor) -> None:
        with pytest.raises(UsageError, match=f"prompt 1 has <image> {times} times"):
            processor([picture((60, 40))] * 2, [PROMPT, prompt])

    def test_each_prompt_has_a_picture(self, processor: OtterProcessor) -> None:
        with pytest.raises(UsageError, match=r"pictures \(1\) must match the number of prompts \(2\)"):
            processor([picture((60, 40))], [PROMPT, PROMPT])


class TestPixels:
    @pytest.mark.parametrize("size", SIZES)
    def test_they_are_the_centre_of_the_resized_picture(self, size: tuple[int, int]) -> None:
        image = picture(size)
        (values,) = OtterImageProcessor()([image], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(values, by_hand(image), rtol=0, atol=1e-5)

    def test_a_batch_is_of_one_picture_of_one_frame_a_row(self, processor: OtterProcessor) -> None:
        images = [picture((60, 40), 1), picture((30, 90), 2)]
        pixels = processor(images, [PROMPT] * 2, return_tensors="pt")["pixel_values"]
        assert pixels.shape == (2, 1, 1, 3, 224, 224)
        assert pixels.dtype == torch.float32
        for row, image in enumerate(images):
            np.testing.assert_allclose(pixels[row, 0, 0].numpy(), by_hand(image), rtol=0, atol=1e-5)

    def test_one_picture_and_lists_of_one_each_are_as_well(self, processor: OtterProcessor) -> None:
        image = picture((60, 40))
        wanted = processor([image], [PROMPT], return_tensors="pt")
        for images, text in ((image, PROMPT), ([[image]], [PROMPT])):
            given = processor(images, text, return_tensors="pt")
            assert {name: torch.equal(given[name], wanted[name]) for name in wanted} == dict.fromkeys(wanted, True)


def same(one: Any, other: Any) -> bool:
    image = picture((90, 50))
    a, b = (p([image], [PROMPT], return_tensors="pt") for p in (one, other))
    return all(torch.equal(a[name], b[name]) for name in ("input_ids", "attention_mask", "pixel_values"))


def auto_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    auto: Any = AutoProcessor
    return auto.from_pretrained(folder, trust_remote_code=False)


class TestFolders:
    @pytest.mark.parametrize("load", [OtterProcessor.from_pretrained, auto_processor], ids=["own", "auto"])
    @pytest.mark.parametrize("kind", ["GPTNeoXTokenizer", "PreTrainedTokenizerFast"])
    @pytest.mark.parametrize("with_config", [True, False])
    def test_what_is_saved_is_read_again(
        self, with_config: bool, kind: str, load: Callable[[Path], Any], tmp_path: Path
    ) -> None:
        from transformers import AutoTokenizer

        auto: Any = AutoTokenizer
        tokenizer = auto.from_pretrained(save_tokenizer(tmp_path / "tokenizer", tokenizer_class=kind))
        crop = {"height": 96, "width": 96}
        processor = OtterProcessor(OtterImageProcessor(size={"shortest_edge": 96}, crop_size=crop), tokenizer)
        folder = tmp_path / "saved"
        if with_config:
            save_config(folder)
        processor.save_pretrained(folder)
        again = load(folder)
        assert type(again) is OtterProcessor
        assert type(again.image_processor) is OtterImageProcessor
        assert again.tokenizer.padding_side == "left"
        assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        assert same(again, processor)

    def test_an_original_folder_with_a_tokenizer(self, processor: OtterProcessor, tmp_path: Path) -> None:
        folder = save_tokenizer(save_config(tmp_path / "otter", vision_config={"image_size": 224}))
        assert same(auto_processor(folder), processor)

    def test_an_original_folder_whose_config_names_the_tokenizer(
        self, processor: OtterProcessor, tmp_path: Path
    ) -> None:
        named = {"tokenizer_name": str(tmp_path / "tokenizer")}
        folder = save_config(tmp_path / "otter", text_config=named, vision_config={"image_size": 224})
        assert same(auto_processor(folder), processor)

    def test_without_settings_the_pictures_are_of_the_vision_towers_size(self, tmp_path: Path) -> None:
        folder = save_tokenizer(save_config(tmp_path / "otter"))
        (pixels,) = auto_processor(folder)([picture((90, 50))], [PROMPT], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(pixels[0, 0], by_hand(picture((90, 50)), side=42), rtol=0, atol=1e-5)

    def test_settings_of_the_image_processor_are_kept(self, tmp_path: Path) -> None:
        folder = save_tokenizer(save_config(tmp_path / "otter"))
        crop = {"height": 56, "width": 56}
        OtterImageProcessor(size={"shortest_edge": 56}, crop_size=crop).save_pretrained(folder)
        assert (folder / "preprocessor_config.json").exists()
        assert auto_processor(folder).image_processor.crop_size["height"] == 56

    def test_no_tokenizer_anywhere(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="tokenizer_name"):
            OtterProcessor.from_pretrained(save_config(tmp_path / "otter"))

    def test_a_tokenizer_of_another_checkpoint(self, tmp_path: Path) -> None:
        folder = save_tokenizer(save_config(tmp_path / "otter", image_token_id=5))
        with pytest.raises(CheckpointError, match=r"the id of <image> is \d+ in the tokenizer and 5 in the model"):
            OtterProcessor.from_pretrained(folder)

    def test_a_tokenizer_with_more_tokens_than_the_model(self, tmp_path: Path) -> None:
        folder = save_tokenizer(save_config(tmp_path / "otter", text_config={"vocab_size": 300}))
        with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ tokens, the model 300"):
            OtterProcessor.from_pretrained(folder)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="nowhere"):
            OtterProcessor.from_pretrained(tmp_path / "nowhere")


@pytest.mark.slow
def test_it_loads_in_a_process_that_imports_nothing_else(processor: OtterProcessor, tmp_path: Path) -> None:
    folder = save_config(tmp_path / "otter")
    processor.save_pretrained(folder)
    code = (
        "import sys; from hf_mllm_aug.mllms.otter_processing import OtterProcessor as P; P.from_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=120)


def test_model_and_processor_in_one_folder_caption_a_picture(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    from hf_mllm_aug.mllms.otter import OtterForConditionalGeneration

    folder = save_tokenizer(save_config(tmp_path / "otter", perceiver_layers=1, num_latents=4))
    processor = auto_processor(folder)
    torch.manual_seed(0)
    OtterForConditionalGeneration(OtterConfig.from_pretrained(folder)).save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    shutil.rmtree(folder)
    auto: Any = AutoModelForImageTextToText
    model = auto.from_pretrained(tmp_path / "own").eval()
    given = auto_processor(tmp_path / "own")([picture((90, 50))], [PROMPT], return_tensors="pt")
    answer = model.generate(**given, min_new_tokens=3, max_new_tokens=3)
    assert answer.shape == (1, given["input_ids"].shape[1] + 3)
    assert torch.equal(answer[:, :-3], given["input_ids"])
