"""MiniGPT-4's published files -> one checkpoint that `from_pretrained` reads.

The project publishes its one trained layer alone; the rest comes from BLIP-2 and from Vicuna, in four layouts. The
converter first reads what there is, without the values, and holds it against the model to be; then it copies tensor by
tensor, so that it needs the memory of the largest file, not of the model.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, LlamaConfig

from hf_mllm_aug.errors import AugError, CheckpointError, OutputExistsError, UsageError
from hf_mllm_aug.mllms.minigpt4 import MiniGPT4Config, MiniGPT4ForConditionalGeneration
from hf_mllm_aug.mllms.minigpt4_keys import LANGUAGE, PROJECTION, QFORMER, VISION, KeyMap
from hf_mllm_aug.mllms.minigpt4_processing import MiniGPT4ImageProcessor, MiniGPT4Processor
from hf_mllm_aug.mllms.minigpt4_tokenizer import SENTENCEPIECE_FILE, load_llama_tokenizer
from hf_mllm_aug.mllms.minigpt4_weights import Kind, kind_of, read_tensors, shards_of, write_safetensors
from hf_mllm_aug.mllms.processing import IMAGE_MARK

INDEX_FILE = "model.safetensors.index.json"

_NAMED = 3  # of each kind of misfit
_ABOUT_ITS_ORIGIN = ("_name_or_path", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype")
_EMBEDDING = "language_model.model.embed_tokens.weight"
_LM_HEAD = "language_model.lm_head.weight"


@dataclass
class _Source:
    """A file, and what of it goes where.

    Args:
        path: The file.
        parts: The model's name of a tensor -> the file's names of what makes it.
        kinds: The model's name of a tensor -> its kind.
    """

    path: Path
    parts: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)


@dataclass
class _Misfits:
    """What keeps the files from being the model, each with its name."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Refuse them, in one message.

        Raises:
            CheckpointError: There is something.
        """
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape or number type": self.unfit,
        }
        texts = [
            f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
            for what, names in kinds.items()
            if names
        ]
        if texts:
            raise CheckpointError(
                f"these files do not make this MiniGPT-4. Tensors: {'; '.join(texts)}. Is each file the right one, and "
                "does the config have its sizes?"
            )


def convert_minigpt4(
    *,
    vit: str | Path,
    qformer: str | Path,
    vicuna: str | Path,
    projection: str | Path,
    out: str | Path,
    config: Mapping[str, Any] | str | Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Make a checkpoint of MiniGPT-4 from the files that its authors, BLIP-2's and Vicuna's published.

    Args:
        vit: EVA's vision transformer, ``eva_vit_g.pth``. Here as below, safetensors will do as well.
        qformer: BLIP-2's Q-Former for Flan-T5-XXL, ``blip2_pretrained_flant5xxl.pth``.
        vicuna: The folder of a Vicuna in transformers' layout, with its tokenizer; v0 for the published projections.
        projection: MiniGPT-4's own layer, ``pretrained_minigpt4.pth`` or ``pretrained_minigpt4_7b.pth``.
        out: The folder to make. In the end it is there as a whole, or not at all.
        config: What differs from MiniGPT-4's sizes, as `MiniGPT4Config` takes it, or a JSON file of that. The language
            model's sizes are those of Vicuna's own ``config.json``.
        max_shard_bytes: Size of an output file, unless it has a single tensor.

    Returns:
        The folder. Its tensors have the number types of the files.

    Raises:
        OutputExistsError: ``out`` exists.
        CheckpointError: A file is refused or cannot be read, or the tensors are not the model's.
        UsageError: ``config`` has a setting that the model lacks.

    >>> convert_minigpt4(vit="eva_vit_g.pth", qformer="blip2_pretrained_flant5xxl.pth", vicuna="vicuna-7b",
    ...                  projection="pretrained_minigpt4_7b.pth", out="minigpt-4")
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.CheckpointError: there is no folder vicuna-7b
    """
    out, vicuna = Path(out), Path(vicuna)
    if out.exists() or out.is_symlink():
        raise OutputExistsError(f"{out} exists. Choose another folder to write, or remove it first.")
    language = shards_of(vicuna)
    tokenizer = load_llama_tokenizer(vicuna)
    model_config = _model_config(_settings(config), vicuna, tokenizer)
    inputs = [(VISION, Path(vit)), (QFORMER, Path(qformer)), (PROJECTION, Path(projection))]
    sources = _plan(model_config, [*inputs, *((LANGUAGE, path) for path in language)])
    kinds = {place: kind for source in sources for place, kind in source.kinds.items()}
    model_config.dtype = kinds[_EMBEDDING].dtype

    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        staging.mkdir()
        _write_weights(sources, staging, max_shard_bytes)
        _write_settings(model_config, tokenizer, vicuna, staging)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def _settings(config: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """What is given as ``config``, with nothing in it that the model has no use for."""
    if isinstance(config, (str, Path)):
        path = Path(config)
        try:
            config = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise CheckpointError(f"{path.name} is no JSON object of settings")
    given = {name: value for name, value in (config or {}).items() if name not in _ABOUT_ITS_ORIGIN}
    plain = MiniGPT4Config().to_dict()
    known = {"image_token_id", *plain}
    for part in ("vision_config", "qformer_config"):
        known.update(f"{part}.{name}" for name in plain[part])
    named = {
        *given,
        *(f"{part}.{name}" for part in ("vision_config", "qformer_config") for name in given.get(part, ())),
    }
    if unknown := sorted(named - known):
        raise UsageError(f"the config has {unknown[0]!r}, which is no setting of MiniGPT-4")
    return given


def _model_config(given: dict[str, Any], vicuna: Path, tokenizer: Any) -> MiniGPT4Config:
    """MiniGPT-4's sizes with those that are given and Vicuna's. The tokenizer says which tokens are special: the ids in
    the ``config.json`` of early Vicunas are none of theirs.

    Also gives the tokenizer a padding token.
    """
    try:
        language = json.loads((vicuna / "config.json").read_text("utf-8"))
        is_llama = language["model_type"] == "llama"
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{vicuna.name} has no config.json that says what model it is") from error
    if not is_llama:
        raise CheckpointError(f"{vicuna.name} is no Llama, but {language['model_type']!r}")
    language = {name: value for name, value in language.items() if name not in _ABOUT_ITS_ORIGIN}
    try:
        words = LlamaConfig(**{**language, "pad_token_id": None}).vocab_size
        picture = _image_token(given, tokenizer, words)
        special = _special_tokens(tokenizer, words, picture)
        text = {**language, **special, **given.get("text_config", {}), "model_type": "llama"}
        named = {name: value for name, value in given.items() if name not in ("model_type", "image_token_id")}
        return MiniGPT4Config(**{**named, "image_token_index": picture, "text_config": text})
    except AugError:
        raise
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"these sizes make no model: {' '.join(str(error).split())[:200]}") from error


def _image_token(given: Mapping[str, Any], tokenizer: Any, words: int) -> int:
    """The token that stands for the picture: what is given, a token made for it, else one that no text can have."""
    for name in ("image_token_id", "image_token_index"):
        if given.get(name) is not None:
            return int(given[name])
    made_for_it = tokenizer.convert_tokens_to_ids(IMAGE_MARK)
    for token in (made_for_it, tokenizer.unk_token_id):
        if token is not None and 0 <= token < words:
            return int(token)
    raise CheckpointError(
        "the tokenizer has no token that can stand for the picture: give image_token_id in the config"
    )


def _special_tokens(tokenizer: Any, words: int, picture: int) -> dict[str, int]:
    """Start, end and padding as the tokenizer has them, all with an embedding."""
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    if tokenizer.vocab_size > words:
        raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} tokens, but the language model {words}")
    if start is None or end is None or picture in (start, end):
        raise CheckpointError("the tokenizer needs a start and an end token that do not stand for the picture")
    if pad is None or not 0 <= pad < words or pad == picture:
        pad = end
        tokenizer.pad_token = tokenizer.eos_token
    return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": pad}


def _plan(config: MiniGPT4Config, inputs: Sequence[tuple[KeyMap, Path]]) -> list[_Source]:
    """Find a place for every tensor of the files, and a tensor for every place.

    Raises:
        CheckpointError: There is not one for each.
    """
    places = _shapes(config)
    tied = _LM_HEAD not in places
    depth = config.vision_config.num_hidden_layers
    # BLIP-2 runs all blocks of EVA's but the last, and its file has that too.
    unused = re.compile(rf"blocks\.{depth}\..+")
    misfits, sources, taken = _Misfits(), [], set[str]()
    for keys, path in inputs:
        source = _Source(path)
        tensors = read_tensors(path)
        for name in tensors:
            if keys.is_extra(name) or (keys is VISION and unused.fullmatch(name)):
                continue
            place = keys.target(name)
            if place == _LM_HEAD and tied:
                continue
            if place not in places or place in taken:
                misfits.unexpected.append(f"{name} in {path.name}")
            else:
                source.parts.setdefault(place, []).append(name)
        for place, names in source.parts.items():
            names.sort()  # of a bias, q before v
            values = [tensors[name].to("meta") for name in names]
            source.kinds[place] = kind = kind_of(_joined(place, values))
            if kind.shape != places[place] or not kind.writable:
                wanted = f"floating-point {list(places[place])}"
                misfits.unfit.append(f"{place} is {kind.dtype} {list(kind.shape)}, not {wanted}")
        taken.update(source.parts)
        sources.append(source)
    misfits.missing += [place for place in places if place not in taken]
    misfits.check()
    return sources


def _shapes(config: MiniGPT4Config) -> dict[str, tuple[int, ...]]:
    """The model's tensors; made without memory for their values."""
    with torch.device("meta"):
        model = MiniGPT4ForConditionalGeneration(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if config.text_config.tie_word_embeddings:
        del shapes[_LM_HEAD]
    return shapes


def _joined(place: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The model's tensor from the file's: the biases of queries and values with zeros for the keys between, or the one
    that there is.
    """
    if place.endswith("self_attn.qkv.bias"):
        return torch.cat([values[0], torch.zeros_like(values[0]), *values[1:]])
    return values[0]


def _write_weights(sources: Sequence[_Source], folder: Path, max_bytes: int) -> None:
    files = [(source, places) for source in sources for places in _shards(source.kinds, max_bytes)]
    index: dict[str, str] = {}
    for number, (source, places) in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write_safetensors(folder / name, {place: source.kinds[place] for place in places}, _values(source, places))
        index.update(dict.fromkeys(places, name))
    size = sum(kind.bytes for source in sources for kind in source.kinds.values())
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}, indent=2)
    (folder / INDEX_FILE).write_text(text + "\n", "utf-8")


def _shards(kinds: Mapping[str, Kind], max_bytes: int) -> Iterator[list[str]]:
    """The tensors of a source, shared out among files; wider number types first."""
    shard: list[str] = []
    size = 0
    for place, kind in sorted(kinds.items(), key=lambda item: -item[1].dtype.itemsize):
        if shard and size + kind.bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(place)
        size += kind.bytes
    if shard:
        yield shard


def _values(source: _Source, places: Sequence[str]) -> Iterator[torch.Tensor]:
    """The values, one at a time; the file is let go with the last."""
    tensors = read_tensors(source.path)
    for place in places:
        yield _joined(place, [tensors[name] for name in source.parts[place]])


def _write_settings(config: MiniGPT4Config, tokenizer: Any, vicuna: Path, folder: Path) -> None:
    config.architectures = [MiniGPT4ForConditionalGeneration.__name__]
    config.save_pretrained(folder)
    text = config.text_config
    generation: Any = GenerationConfig
    generation(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    ).save_pretrained(folder)
    side = config.vision_config.image_size
    tokenizer.padding_side = "left"
    MiniGPT4Processor(
        MiniGPT4ImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        num_query_tokens=config.num_query_tokens,
        image_token_id=config.image_token_id,
    ).save_pretrained(folder)
    if (vicuna / SENTENCEPIECE_FILE).is_file():
        shutil.copyfile(vicuna / SENTENCEPIECE_FILE, folder / SENTENCEPIECE_FILE)
