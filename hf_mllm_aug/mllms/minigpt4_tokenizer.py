"""The tokenizer of a Llama folder, also where there is nothing but ``tokenizer.model``, as with Vicuna v0.

Transformers reads that file with the help of `sentencepiece` and `protobuf`, and merges pieces in the order of their
ids. That is nearly Llama's order, but not for runs of spaces: " a" would come out as two spaces and an "a". Here the
scores in the file set the order, as they do in sentencepiece. The file is a protocol buffer of which three fields
matter, so it is read without either library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_mllm_aug.errors import CheckpointError

SENTENCEPIECE_FILE = "tokenizer.model"

# Kinds of pieces, from sentencepiece_model.proto.
_UNKNOWN, _CONTROL = 2, 3
# Wire types of protocol buffers.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def load_llama_tokenizer(folder: Path) -> Any:
    """Load a Llama folder's tokenizer.

    Args:
        folder: With ``tokenizer.json``, or with ``tokenizer.model``. Of the latter, the special tokens are those of
            the file itself: the settings beside it are empty or wrong in many early Llama folders.

    Returns:
        A tokenizer of transformers.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if (folder / "tokenizer.json").is_file():
        auto: Any = AutoTokenizer
        try:
            return auto.from_pretrained(str(folder), trust_remote_code=False)
        except Exception as error:  # the Rust tokenizer raises bare Exceptions
            raise CheckpointError(f"{folder.name}: its tokenizer.json cannot be read") from error
    if not (folder / SENTENCEPIECE_FILE).is_file():
        raise CheckpointError(f"{folder.name} has no tokenizer: neither tokenizer.json nor {SENTENCEPIECE_FILE}")
    return _from_sentencepiece(folder / SENTENCEPIECE_FILE)


def _from_sentencepiece(path: Path) -> Any:
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    try:
        pieces = list(_pieces(path.read_bytes()))
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path.name} is no sentencepiece model") from error
    special = {kind: [text for text, _, of in pieces if of == kind] for kind in (_UNKNOWN, _CONTROL)}
    if len(special[_UNKNOWN]) != 1 or not {"<s>", "</s>"} <= set(special[_CONTROL]):
        raise CheckpointError(f"{path.name} is no Llama's: it lacks an unknown, a start or an end token")
    vocabulary = {text: number for number, (text, _, _) in enumerate(pieces)}
    scores = {text: score for text, score, kind in pieces if kind not in special}
    tokenizer: Any = LlamaTokenizer
    return tokenizer(
        vocab=vocabulary,
        merges=generate_merges(vocabulary, vocab_scores=scores, skip_tokens={*special[_UNKNOWN], *special[_CONTROL]}),
        unk_token=special[_UNKNOWN][0],
        bos_token="<s>",
        eos_token="</s>",
    )


def _pieces(model: bytes) -> Iterator[tuple[str, float, int]]:
    """The pieces of a `ModelProto`, in the order of their ids: text, score and kind."""
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(bytes(value)))
            (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
            yield bytes(piece[1]).decode("utf-8"), score, int(piece.get(3, 1))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: number and value; of strings and messages the bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value: Any
            value, place = _varint(message, place)
        elif wire in (_FIXED64, _FIXED32, _BYTES):
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
            if size is None:
                size, place = _varint(message, place)
            value, place = message[place : place + size], place + size
            if place > len(message):
                raise ValueError("cut off")
        else:
            raise ValueError(f"wire type {wire}")
        yield number, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
