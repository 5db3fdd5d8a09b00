"""Qwen's tokenizer from ``qwen.tiktoken``: the same ids as joining by ranks, on trained and on adversarial files."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.mllms.qwen_vl_tokenizer import SPECIAL_TOKENS, QWenTokenizer, last_join, read_ranks, to_tokenizer

TEXTS = [
    "Express emotional or artistic response: the quiet harbour, its boats asleep, glows in the evening.",
    "A dog's life isn't a cat's; they're both asleep, and I'VE 3 photos from 2023-11-30.\r\n\r\n  Indented\ttext  ",
    "一只狗在草地上奔跑。它很开心！ 東京の夜景 café naïve Ångström — “quoted” … 🦆🦊👩‍🚀",
    "def f(x):\n    return x ** 2  # squares\n\n\nhttps://example.com/a.html?b=c&d=%20",
    "Привет, мир! Ελληνικά עברית العربية हिन्दी ไทย 한국어",
]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """What byte-level BPE learns from the texts, numbered as tiktoken does."""
    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(TEXTS * 4, trainer)
    ids = trained.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    # Written bytes back to bytes: encode every byte alone, and see what it is written as.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    value = {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}
    return {bytes(value[symbol] for symbol in piece): n for n, piece in enumerate(pieces)}


def write(folder: Path, ranks: dict[bytes, int]) -> Path:
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for token, rank in ranks.items()]
    path = folder / "qwen.tiktoken"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def by_rank(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Join the neighbours of the lowest joint rank, the leftmost first, until none can be; whole words at once."""
    if word in ranks:
        return [ranks[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        found = [(ranks[parts[i] + parts[i + 1]], i) for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ranks]
        if not found:
            return [ranks[part] for part in parts]
        _, i = min(found)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]


def reference(text: str, ranks: dict[bytes, int]) -> list[int]:
    words = regex.findall(PRETOKENIZE_REGEX, unicodedata.normalize("NFC", text))
    return [token for word in words for token in by_rank(word.encode(), ranks)]


def random_texts(n: int) -> list[str]:
    dice = random.Random(5)
    pool = [*"".join(TEXTS), *" \n\t\r'.,0123456789", "e\u0301", "\u00a0", "\u2028", "'LL", "ﬁ", "\U0001f1e9\U0001f1ea"]
    words = [word for text in TEXTS for word in text.split(" ")]
    texts = ["".join(dice.choices(pool, k=dice.randrange(60))) for _ in range(n)]
    return texts + [" ".join(dice.choices(words, k=dice.randrange(1, 12))) for _ in range(n)]


def test_the_same_ids_as_joining_by_ranks(ranks: dict[bytes, int]) -> None:
    tokenizer = to_tokenizer(ranks)
    for text in [*TEXTS, *random_texts(400)]:
        assert tokenizer.encode(text).ids == reference(text, ranks), repr(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_same_ids_on_files_that_no_training_gives(data: st.DataObject) -> None:
    # Tokens in any order, of which some cannot be joined from others at all.
    tokens = data.draw(st.lists(st.text("abc", min_size=2, max_size=6), unique=True, max_size=25))
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {token.encode(): 256 + n for n, token in enumerate(tokens)}
    tokenizer = to_tokenizer(ranks)
    for text in data.draw(st.lists(st.text("abc", min_size=1, max_size=14), min_size=5, max_size=15)):
        assert tokenizer.encode(text).ids == by_rank(text.encode(), ranks), (tokens, text)


def test_a_token_that_joining_never_reaches_is_a_whole_word_only() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"xyz": 256}
    assert last_join(b"xyz", ranks) is None
    tokenizer = to_tokenizer(ranks)
    assert tokenizer.encode("xyz").ids == [256]
    assert tokenizer.encode("xyzx").ids == list(b"xyzx")


def test_special_tokens_have_the_ids_of_the_release(ranks: dict[bytes, int]) -> None:
    first = 151643  # tokens in the released file
    wanted = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|extra_0|>": 151646,
        "<|extra_204|>": 151850,
        "<ref>": 151851,
        "</ref>": 151852,
        "<box>": 151853,
        "</box>": 151854,
        "<quad>": 151855,
        "</quad>": 151856,
        "<img>": 151857,
        "</img>": 151858,
        "<imgpad>": 151859,
    }
    tokenizer = to_tokenizer(ranks)
    for token, number in wanted.items():
        assert first + SPECIAL_TOKENS.index(token) == number
        assert tokenizer.token_to_id(token) == number - first + len(ranks)
    assert tokenizer.get_vocab_size() == len(ranks) + 217
    assert tokenizer.encode("a<img>b").ids == [ranks[b"a"], len(ranks) + 214, ranks[b"b"]]


def test_a_folder_with_the_tiktoken_file_alone(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    write(tmp_path, ranks)
    tokenizer: Any = QWenTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == reference(text, ranks)
    assert tokenizer.padding_side == "left"
    end = len(ranks)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (end, end, None)
    short, long = tokenizer(["a", TEXTS[0]], padding=True)["input_ids"]
    assert short == [end] * (len(long) - 1) + [ranks[b"a"]]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"neither qwen\.tiktoken nor tokenizer\.json"):
        QWenTokenizer.from_pretrained(tmp_path)


def test_texts_come_back_without_special_tokens(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    write(tmp_path, ranks)
    tokenizer: Any = QWenTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "spaces  before , a comma 's"]:
        ids = [len(ranks) + 1, *tokenizer(text)["input_ids"], len(ranks)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFC", text)
    assert tokenizer.decode([ranks["é".encode()[:1]]], skip_special_tokens=True) == "\ufffd"


def test_the_released_tokenizer_settings_and_a_saved_copy(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    original = tmp_path / "original"
    original.mkdir()
    write(original, ranks)
    released = {
        "model_max_length": 8192,
        "tokenizer_class": "QWenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
    }
    (original / "tokenizer_config.json").write_text(json.dumps(released))
    (original / "config.json").write_text(json.dumps({"model_type": "qwen", "visual": {}}))
    import hf_mllm_aug.mllms.qwen_vl  # noqa: F401 - makes the name known

    auto: Any = AutoTokenizer
    tokenizer = auto.from_pretrained(original, trust_remote_code=False)
    assert type(tokenizer) is QWenTokenizer
    assert tokenizer.model_max_length == 8192
    tokenizer.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert not (tmp_path / "saved" / "qwen.tiktoken").exists()
    again = auto.from_pretrained(tmp_path / "saved", trust_remote_code=False)
    assert type(again) is QWenTokenizer
    assert again.padding_side == "left"
    assert again.get_vocab() == tokenizer.get_vocab()
    for text in [*TEXTS, "<img>a</img><imgpad><|endoftext|>", *random_texts(30)]:
        ids = tokenizer(text)["input_ids"]
        assert again(text)["input_ids"] == ids
        assert again.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"YQ== 0\nYg==\n", r"qwen\.tiktoken, line 2: not a token"),
        (b"YQ== zero\n", "line 1: not a token"),
        (b"Y!Q== 0\n", "line 1: not a token"),
        (b"YQ== 0\nYg== 2\n", r"ranks of its 2 tokens are not 0, 1, 2"),
        (b"YQ== 0\nYg== 1\n", "254 of the 256 single bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "line 1: not a token"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_ranks(path)
    with pytest.raises(CheckpointError, match=message):
        QWenTokenizer.from_pretrained(tmp_path)
