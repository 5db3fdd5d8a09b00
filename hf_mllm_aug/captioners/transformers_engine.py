"""The engine on this machine: image-text-to-text models of `transformers`.

Remote code is never run: ``trust_remote_code=False`` goes with every call, so that nobody is asked on the terminal
either. Weights are read as safetensors where there are any, else as pickles with
``weights_only=True``, which is transformers' default.
"""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, StoppingCriteriaList

from hf_mllm_aug import mllms
from hf_mllm_aug.captioners import fork, quantization
from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.captioners.engine import FinishReason, Generated, ModelKey, Request
from hf_mllm_aug.captioners.lanes import Lane, Lanes, how_many
from hf_mllm_aug.captioners.prompters import Prompter, load_prompter
from hf_mllm_aug.captioners.prompters.suitability import refuse_misasked
from hf_mllm_aug.captioners.sampling import row_seed, samplers
from hf_mllm_aug.captioners.sentence_stop import CaptionStop, decode
from hf_mllm_aug.captioners.static_cache import StaticDecoding
from hf_mllm_aug.checkpoints import reason, refuse_foreign_code, refuse_pickle_with_code, refuse_unfit_weights
from hf_mllm_aug.errors import AugError, CheckpointError, ImageError, UsageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

logger = logging.getLogger(__name__)

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Taken from `decoding`; sampling is done by `samplers`, on top of greedy decoding.
_GREEDY = ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
_BEAMS = ("length_penalty", "early_stopping")


class TransformersEngine:
    """A model in memory, and how it is asked.

    Args:
        model: Of transformers, on its device.
        prompter: Prepares its inputs.
        source: The Hub id or folder that they are from, to be kept out of messages.
        name: What messages call it.
    """

    def __init__(self, model: Any, prompter: Prompter, *, source: str = "", name: str = "") -> None:
        self.max_batch: int | None = None
        self._source, self._name = source, name
        self._model = model
        self._prompter = prompter
        # A tokenizer must not be used by two threads at once: the prompter's encodes, those of lanes decode.
        self._lanes = Lanes(Lane(model, copy.deepcopy(prompter.tokenizer)), how_many(model))
        self._static = StaticDecoding(model, lambda error: reason(error, source, name))
        self._prompting = threading.Lock()
        self._special = _special_ids(model, prompter.tokenizer)
        # Whatever sampling a checkpoint suggests would fill the parameters that are not set.
        model.generation_config = _generation_config(**self._special)

    @property
    def lanes(self) -> int:
        """See `PreparingEngine.lanes`; one in a process that has one thread, such as a forked one."""
        return min(self._lanes.count, torch.get_num_threads())

    def prepare(self, images: Sequence[PilImage.Image], request: Request) -> dict[str, torch.Tensor] | None:
        """See `PreparingEngine.prepare`."""
        try:
            return self._pinned(self._inputs(images, request))
        except Exception:  # noqa: BLE001 (`generate` meets it again, where it can be told of its picture)
            return None

    def generate(
        self,
        images: Sequence[PilImage.Image],
        keys: Sequence[str],
        request: Request,
        prepared: dict[str, torch.Tensor] | None = None,
    ) -> Sequence[Generated | ImageError]:
        """See `Engine.generate`."""
        try:
            inputs = prepared if prepared is not None else self._inputs(images, request)
        except AugError:
            raise
        except Exception as error:
            if len(images) == 1:
                text = reason(error, self._source, self._name)[:200]  # it goes into a column that is published
                return [ImageError(f"the model's processor refuses the picture: {text}")]
            logger.debug("a micro-batch of %d was refused; trying its pictures one by one", len(images), exc_info=True)
            return self._halved(images, keys, request)
        try:
            with self._lanes.one() as lane:
                return self._decode(lane, inputs, keys, request)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            inputs = {}
            if len(images) == 1:
                return [ImageError("out of memory on the device, even alone")]
        clear_device_cache()  # after the error has gone, whose frames hold the tensors
        self.max_batch = len(images) // 2
        logger.warning("out of memory with %d pictures at once; going on with %d", len(images), self.max_batch)
        return self._halved(images, keys, request)

    def _inputs(self, images: Sequence[PilImage.Image], request: Request) -> dict[str, torch.Tensor]:
        with self._prompting:
            return self._prompter.inputs(images, request.prompt)

    def _halved(
        self, images: Sequence[PilImage.Image], keys: Sequence[str], request: Request
    ) -> Sequence[Generated | ImageError]:
        middle = len(images) // 2
        head = self.generate(images[:middle], keys[:middle], request)
        return [*head, *self.generate(images[middle:], keys[middle:], request)]

    @torch.inference_mode()
    def _decode(
        self, lane: Lane, inputs: dict[str, torch.Tensor], keys: Sequence[str], request: Request
    ) -> list[Generated]:
        def generate(inputs: dict[str, Any], keys: Sequence[str], **static: Any) -> list[Generated]:
            return self._generated(lane, inputs, keys, request, **static)

        placed = self._on_device(inputs)
        if lane.model is not self._model:  # static caches are the first lane's
            return generate(placed, keys)
        return self._static.decode(placed, keys, request, generate)

    def _generated(
        self,
        lane: Lane,
        inputs: dict[str, Any],
        keys: Sequence[str],
        request: Request,
        *,
        compile_config: Any = None,
        **options: Any,
    ) -> list[Generated]:
        model, tokenizer = lane.model, lane.tokenizer
        decoding = request.decoding
        beams = decoding["num_beams"] > 1
        ends = self._ends(tokenizer, request.clean_up.stops)
        config = _generation_config(
            do_sample=False,
            max_new_tokens=request.max_new_tokens,
            **{name: decoding[name] for name in ((*_GREEDY, *_BEAMS) if beams else _GREEDY)},
            **{**self._special, "eos_token_id": ends or None},
            compile_config=compile_config,
        )
        if decoding["do_sample"]:
            options["logits_processor"] = samplers(decoding, [row_seed(request.seed, key) for key in keys])
        stop = CaptionStop(
            tokenizer,
            request.language if request.sentence_stop and not beams else None,
            CleanUp() if beams else request.clean_up,
            decoding["min_new_tokens"],
        )
        options["stopping_criteria"] = StoppingCriteriaList([stop])
        output = model.generate(**inputs, generation_config=config, **options).cpu()
        rows = output[:, stop.n_given(output, beams=beams) :].tolist()
        lengths = [None] * len(rows) if beams else stop.lengths
        texts = []
        for row, length in zip(rows, lengths, strict=True):
            ids = _until(ends, row[:length])
            ended = len(ids) < len(row[:length])
            finish: FinishReason = "stop" if ended else "length" if length is None else "sentence"
            texts.append(Generated(decode(tokenizer, ids).strip(), len(ids), finish))
        return texts

    def _ends(self, tokenizer: Any, stops: Sequence[str]) -> list[int]:
        """The tokens that end a row: the checkpoint's, and the stops that its tokenizer has as tokens of their own.

        Such a stop does not show in the text, where special tokens are left out.
        """
        ends = list(self._special["eos_token_id"] or [])
        if stops:
            added = tokenizer.get_added_vocab()
            ends += [added[stop] for stop in stops if stop in added and added[stop] not in ends]
        return ends

    def _pinned(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs where a CUDA device can fetch them by itself, while the CPU goes on."""
        if self._model.device.type != "cuda":
            return inputs
        return {name: value.pin_memory() if _is_tensor(value) else value for name, value in inputs.items()}

    def _on_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The inputs on the device, bytes of pictures as scaled floats, floats of the model's type."""
        model, scaling = self._model, self._prompter.scaling

        def move(name: str, value: Any) -> Any:
            if not _is_tensor(value):
                return value
            value = value.to(model.device, non_blocking=True)
            if name == "pixel_values" and scaling is not None:
                value = scaling(value)
            return value.to(model.dtype) if value.is_floating_point() else value

        return {name: move(name, value) for name, value in inputs.items()}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _until(ends: Sequence[int], ids: list[int]) -> list[int]:
    """A row up to its end token: what a batch appends behind it is padding, which need not be a special token."""
    return next((ids[:index] for index, token in enumerate(ids) if token in ends), ids)


def _generation_config(**settings: Any) -> Any:
    kind: Any = GenerationConfig
    return kind(**settings)


def _special_ids(model: Any, tokenizer: Any) -> dict[str, Any]:
    """End, start and padding tokens: the checkpoint's generation settings know best, then its tokenizer.

    An end that is forced at the last position is left out: it would take the place of a word that was cut off anyway.
    """
    stored = model.generation_config
    ends = stored.eos_token_id if stored.eos_token_id is not None else tokenizer.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends
    pad = next(
        (pad for pad in (stored.pad_token_id, tokenizer.pad_token_id, ends[0] if ends else None) if pad is not None),
        None,
    )
    start = stored.bos_token_id if stored.bos_token_id is not None else tokenizer.bos_token_id
    special = {"eos_token_id": ends, "pad_token_id": pad, "bos_token_id": start}
    # Encoder-decoders of BART's kind begin with one token and are made to say another before their first word.
    for name in ("decoder_start_token_id", "forced_bos_token_id"):
        if getattr(stored, name, None) is not None:
            special[name] = getattr(stored, name)
    return special


def load(key: ModelKey) -> TransformersEngine:
    """Load a model.

    Args:
        key: Which, and where to.

    Returns:
        The engine. A checkpoint whose processor cannot work fails here, not on every row: the prompter is tried out.

    Raises:
        CheckpointError: The checkpoint is not there, or does not fit; or it is of one of the paper's MLLMs, and is to
            be asked in another way than as its preset says.
        UsageError: The device or number type is not to be had, or weights cannot be quantised so.
    """
    fork.prepare()
    device = _device(key.device)
    dtype = _dtype(key.dtype, device)
    quantization.check(key.quantization, device, dtype)
    try:
        mllms.register()
        refuse_foreign_code(key.source, key.label, key.revision)
        config = AutoConfig.from_pretrained(key.source, revision=key.revision, trust_remote_code=False)
        refuse_misasked(key, config)
        if key.quantization is not None:
            quantization.refuse_quantised(config, key.label)
        prompter = load_prompter(key, config)
        placement = {"device_map": {"": str(device)}} if device.type == "cuda" and key.quantization is None else {}
        auto: Any = AutoModelForImageTextToText
        model, info = auto.from_pretrained(
            key.source,
            revision=key.revision,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **placement,
        )
        refuse_unfit_weights(info, key.label)
        if key.quantization is not None:
            model = quantization.quantise(model, key.quantization, device, key.label)
        model = model.eval() if placement else model.eval().to(device)
    except AugError:
        raise
    except pickle.UnpicklingError as error:
        raise refuse_pickle_with_code(key.label) from error
    except Exception as error:  # safetensors and torch have errors of their own
        raise CheckpointError(f"cannot load {key.label}: {reason(error, key.source, key.label)}") from error
    return TransformersEngine(model, prompter, source=key.source, name=key.label)


def _device(name: str | None) -> torch.device:
    try:
        wanted = torch.device(name) if name is not None else None
    except RuntimeError:
        raise UsageError(f"device {name!r} is none that torch knows; try 'cpu', 'cuda' or 'cuda:1'") from None
    if wanted is None or wanted.type == "cuda":
        fork.check_cuda()
    if wanted is None:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return wanted


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.float32 if device.type == "cpu" else torch.float16
    return _TYPES[name]


def count_cuda_devices() -> int:
    """How many CUDA devices there are; 0 without CUDA."""
    fork.check_cuda()
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
