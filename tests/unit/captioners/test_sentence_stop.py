"""Decoding that ends at a stop or at the sentence gives what full decoding, clean-up and shearing give."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from hf_mllm_aug.captioners import CleanUp
from hf_mllm_aug.captioners.sentence_stop import CaptionStop, decode
from hf_mllm_aug.shearing import first_sentence_end, shear

# Each has a stop that is no end, an end that is hard to see, or an end that is plain.
PHRASES = [
    "A view of St. Peter's Basilica at dusk. The sky is red.",
    " A 3.5 inch floppy disk. It is blue.",
    " Soldiers of the U.S. Army in a camp. They rest.",
    " A train leaves at 5 p.m. from the station. It is late.",
    " a train at 5 p.m. It is late",
    "一只狗在草地上。它在跑。",
    " 「はい。」と言った。犬。",
    " see https://example.com/a.html?b=1. Then go",
    " Dr. Who and Mr. Will Smith, approx. 5 m. away",
    ' She said "Go home. Now." and left. He stayed',
    " Two red buses! One dog? A cat...and a mat. . . Yes",
    "\n1. A dog\n2. A cat\n\nThe end. Or",
    " café naïve 🦆. 🦊! Über",
    " J. R. R. Tolkien. No. 5 is alive. e.g. this",
    " (A dog. It runs.) On grass. Next",
    ".",
    " ",
    "\n",
    "The ",
    " It",
]

# What clean-up looks for, whole and in parts.
MARKS = ["###Human: And", "#", "##", " Assistant: A dog", "Assistant", "\u200b", "GPT:", "<end> more", "<en"]

CLEAN_UPS = {
    "nothing": CleanUp(),
    "stop": CleanUp(stops=("###",)),
    "stops and prefixes": CleanUp(stops=("###", "<end>"), prefixes=("Assistant:", "GPT:"), dropped="\u200b"),
    "full stop": CleanUp(stops=(".",)),
    "restarts": CleanUp(stops=("###", "."), restarts=("Assistant:",), dropped="\n\u200b"),
    "line breaks": CleanUp(stops=("!",), dropped="\n"),
}


def _byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(PHRASES + MARKS, trainer)
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _byte_fallback() -> Any:
    """Llama's form: spaces as pieces' first character, unknown characters as byte tokens, decoded in runs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    ascii_only = [phrase.encode("ascii", "ignore").decode() for phrase in PHRASES + MARKS]
    trainer: Any = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator(ascii_only, trainer)
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *sorted(trained.get_vocab())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    kind: Any = LlamaTokenizer
    return kind(vocab=vocabulary, merges=[])


TOKENIZERS = {"byte level": _byte_level, "byte fallback": _byte_fallback}


def _streams(tokenizer: Any, count: int, length: int, phrases: list[str] = PHRASES) -> list[list[int]]:
    """Token streams as a model may write them: phrases, cut anywhere and joined, with stray tokens between."""
    draw = random.Random(20240501)
    encoded = [tokenizer(phrase, add_special_tokens=False)["input_ids"] for phrase in phrases]
    streams = []
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < length:
            phrase = draw.choice(encoded)
            start = draw.randrange(len(phrase)) if draw.random() < 0.3 else 0
            end = draw.randint(start, len(phrase)) if draw.random() < 0.5 else len(phrase)
            ids += phrase[start:end]
            if draw.random() < 0.25:
                ids += [draw.randrange(len(tokenizer)) for _ in range(draw.randint(1, 4))]
        streams.append(ids[:length])
    return streams


def _stop(
    tokenizer: Any,
    streams: list[list[int]],
    language: str | None = "en",
    clean_up: CleanUp | None = None,
    min_new_tokens: int = 0,
) -> list[int | None]:
    """Drive the criterion as `generate` does; rows that are over get padding."""
    n_prompt = 5
    ids = torch.tensor([[tokenizer.bos_token_id] * n_prompt + stream for stream in streams])
    stop = CaptionStop(tokenizer, language, clean_up, min_new_tokens)
    over = torch.zeros(len(streams), dtype=torch.bool)
    for end in range(n_prompt + 1, ids.shape[1] + 1):
        ids[over, end - 1] = tokenizer.eos_token_id
        over |= stop(ids[:, :end], None, of_no_use=True)  # type: ignore[arg-type]
    return stop.lengths


@pytest.mark.parametrize("language", ["en", None])
@pytest.mark.parametrize("rules", CLEAN_UPS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stopped_row_is_cleaned_and_sheared_to_what_the_full_row_is(
    name: str, rules: str, language: str | None
) -> None:
    tokenizer, clean_up = TOKENIZERS[name](), CLEAN_UPS[rules]
    streams = _streams(tokenizer, 250, 40, [*PHRASES, *MARKS * 2])
    least = 12
    lengths = _stop(tokenizer, streams, language, clean_up, least)
    n_stopped = 0
    for row, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
        full, stopped = clean_up(decode(tokenizer, stream)), clean_up(decode(tokenizer, stream[:length]))
        if language is None:
            assert stopped == full, (row, full, stopped)
        first = [text[: first_sentence_end(f"{text}\n\n")] for text in (full, stopped)]
        assert first[0] == first[1], (row, full, stopped)
        assert shear(first[1]) == shear(full), (row, full, stopped)
        assert length is None or length >= least, row
        n_stopped += length is not None and length < len(stream)
    idle = language is None and not clean_up.stops
    assert (n_stopped == 0) if idle else (n_stopped > 20), f"{n_stopped} of {len(streams)} rows were ended"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stopped_row_shears_to_what_the_full_row_shears_to(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    streams = _streams(tokenizer, 1500, 60)
    lengths = _stop(tokenizer, streams)
    n_stopped = 0
    for row, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
        full, stopped = decode(tokenizer, stream).strip(), decode(tokenizer, stream[:length]).strip()
        expected = shear(full)
        assert shear(stopped) == expected, (row, full, stopped)
        cut = stopped[: first_sentence_end(f"{stopped}\n\n")]
        assert shear(cut) == expected, (row, full, cut)
        assert cut == full[: first_sentence_end(f"{full}\n\n")], (row, full, cut)
        n_stopped += length is not None and length < len(stream)
    assert n_stopped > 750, f"only {n_stopped} of {len(streams)} rows were ended"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A view of St. Peter's Basilica at dusk. The sky is red.", "A view of St. Peter's Basilica at dusk."),
        ("A 3.5 inch floppy disk. It is blue.", "A 3.5 inch floppy disk."),
        ("The U.S. Army at work. They rest. And so on", "The U.S. Army at work."),
        ("A train at 5 p.m. in the rain. It is late.", "A train at 5 p.m. in the rain."),
        ("See https://example.com/a.html for more. Then go.", "See https://example.com/a.html for more."),
    ],
)
def test_a_row_ends_soon_after_its_first_sentence(name: str, text: str, kept: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    (length,) = _stop(tokenizer, [ids])
    assert length is not None
    stopped = decode(tokenizer, ids[:length]).strip()
    assert stopped.startswith(kept)
    assert len(stopped) - len(kept) < 8, stopped


def test_rows_end_one_by_one() -> None:
    tokenizer = _byte_level()
    texts = ["A dog. It runs on the grass of the park", "A dog runs on the grass of the park and of the"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    shortest = min(map(len, ids))
    first, second = _stop(tokenizer, [row[:shortest] for row in ids])
    assert first is not None
    assert first < shortest
    assert second is None


def test_a_character_in_several_tokens_is_awaited() -> None:
    tokenizer = _byte_fallback()
    ids = tokenizer("一只狗。它跑", add_special_tokens=False)["input_ids"]
    assert len(ids) > 12  # bytes
    stop = CaptionStop(tokenizer, "en")
    prompt = [1]
    for end in range(1, len(ids) + 1):
        # The run of byte tokens may yet turn out invalid, and then decodes to replacement characters as a whole.
        assert not stop(torch.tensor([prompt + ids[:end]]), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_row_ends_at_its_own_stop(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    texts = ["A view of a dog ### Human: What else is there", "A view of a dog and a cat on a mat ### Human: And"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    shortest = min(map(len, ids))
    clean_up = CleanUp(stops=("###",))
    lengths = _stop(tokenizer, [row[:shortest] for row in ids], None, clean_up)
    kept = [decode(tokenizer, row[:length]) for row, length in zip(ids, lengths, strict=True)]
    assert [text.strip() for text in kept] == [text[: text.index("###") + 3] for text in texts]
    assert lengths[0] != lengths[1]


def _driven(n_prompt: int, n_new: int, rows: int = 2, beams: int = 1) -> tuple[CaptionStop, torch.Tensor]:
    """A criterion after a decoding of so many steps, and all ids: the model repeats its prompt word by word."""
    ids = (torch.arange(n_prompt + n_new) % (n_prompt or 99)).repeat(rows * beams, 1)
    stop = CaptionStop(_byte_level())
    for end in range(n_prompt + 1, n_prompt + n_new + 1):
        stop(ids[:, :end], None)  # type: ignore[arg-type]
    return stop, ids[::beams]


def test_what_generate_gave_back_is_told_from_what_is_new() -> None:
    stop, ids = _driven(n_prompt=6, n_new=9)
    assert stop.n_given(ids) == 6
    assert stop.n_given(ids[:, 6:]) == 0, "the model cuts its prompt off itself, and says it again"
    stop, ids = _driven(n_prompt=0, n_new=3)
    assert stop.n_given(ids) == 0, "called with embeddings"
    stop, ids = _driven(n_prompt=1, n_new=3)
    assert stop.n_given(ids) == 1, "the start token of an encoder-decoder"


def test_beams_may_be_shorter_than_the_steps() -> None:
    stop, ids = _driven(n_prompt=6, n_new=8, beams=3)
    assert stop.n_given(ids[:, :11], beams=True) == 6
    assert stop.n_given(ids[:, 6:11], beams=True) == 0
    assert stop.n_given(ids[:, 7:], beams=True) == 0
