"""Decoding that ends at the sentence gives what full decoding and shearing give."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from hf_mllm_aug.captioners.sentence_stop import SentenceStop, decode
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
    tokenizer.train_from_iterator(PHRASES, trainer)
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _byte_fallback() -> Any:
    """Llama's form: spaces as pieces' first character, unknown characters as byte tokens, decoded in runs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    ascii_only = [phrase.encode("ascii", "ignore").decode() for phrase in PHRASES]
    trainer: Any = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator(ascii_only, trainer)
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *sorted(trained.get_vocab())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    kind: Any = LlamaTokenizer
    return kind(vocab=vocabulary, merges=[])


TOKENIZERS = {"byte level": _byte_level, "byte fallback": _byte_fallback}


def _streams(tokenizer: Any, count: int, length: int) -> list[list[int]]:
    """Token streams as a model may write them: phrases, cut anywhere and joined, with stray tokens between."""
    draw = random.Random(20240501)
    encoded = [tokenizer(phrase, add_special_tokens=False)["input_ids"] for phrase in PHRASES]
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


def _stop(tokenizer: Any, streams: list[list[int]]) -> list[int | None]:
    """Drive the criterion as `generate` does; rows that are over get padding."""
    n_prompt = 5
    ids = torch.tensor([[tokenizer.bos_token_id] * n_prompt + stream for stream in streams])
    stop = SentenceStop(tokenizer)
    over = torch.zeros(len(streams), dtype=torch.bool)
    for end in range(n_prompt + 1, ids.shape[1] + 1):
        ids[over, end - 1] = tokenizer.eos_token_id
        over |= stop(ids[:, :end], None, of_no_use=True)  # type: ignore[arg-type]
    return stop.lengths


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
    stop = SentenceStop(tokenizer)
    prompt = [1]
    for end in range(1, len(ids) + 1):
        # The run of byte tokens may yet turn out invalid, and then decodes to replacement characters as a whole.
        assert not stop(torch.tensor([prompt + ids[:end]]), None)  # type: ignore[arg-type]
