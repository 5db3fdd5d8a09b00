"""The engine of vLLM in this process, on this machine's GPU.

NOT YET RUN: nothing here has captioned a picture so far, for vLLM needs CUDA builds of torch that the machines of this
project's tests lack. What is tested is what vLLM is told and what is made of its answers, and, where vLLM is installed,
that its functions take these arguments. They are those of vLLM 0.11 and later. A server of vLLM, asked through the
engine ``"openai"``, is the way that is tested with real requests.

LLaVA-1.5's own form of a prompt goes to `LLM.generate` as text in which ``<image>`` stands for the picture. vLLM
tokenises it in one piece where the original code has two, so its captions may differ from those of the engine
``"transformers"``. All other models are asked by their chat template, through `LLM.chat`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners import fork, served
from hf_mllm_aug.captioners.engine import FinishReason, Generated, ModelKey, Request
from hf_mllm_aug.captioners.presets import IMAGE_MARK
from hf_mllm_aug.captioners.prompters.forms import resolve
from hf_mllm_aug.captioners.prompters.prompter import halves
from hf_mllm_aug.checkpoints import reason, refuse_foreign_code
from hf_mllm_aug.errors import AugError, CaptionError, CheckpointError, ImageError, UsageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

logger = logging.getLogger(__name__)


class VllmEngine:
    """A model that vLLM has loaded.

    Args:
        llm: `vllm.LLM`.
        params: `vllm.SamplingParams`, or what makes its like of the same arguments.
        source: The Hub id or folder, to be kept out of messages.
        name: What messages call it.
        raw: Whether prompts go as they are, and not through the chat template.
    """

    max_batch: int | None = None

    def __init__(self, llm: Any, params: Any, *, source: str, name: str, raw: bool) -> None:
        self._llm, self._params = llm, params
        self._source, self._name, self._raw = source, name, raw

    def generate(
        self, images: Sequence[PilImage.Image], keys: Sequence[str], request: Request
    ) -> Sequence[Generated | ImageError]:
        """See `Engine.generate`."""
        params = [self._params(**sampling_arguments(request, key)) for key in keys]
        try:
            if self._raw:
                prompts = [raw_prompt(image, request.prompt) for image in images]
                outputs = self._llm.generate(prompts, params, use_tqdm=False)
            else:
                conversations = [conversation(image, request.prompt) for image in images]
                outputs = self._llm.chat(conversations, params, use_tqdm=False)
        except ValueError as error:  # of vLLM's own errors, those about what it was given
            if len(images) == 1:
                text = reason(error, self._source, self._name)[:200]
                return [ImageError(f"vLLM refuses the picture: {text}")]
            logger.debug("a micro-batch of %d was refused; trying its pictures one by one", len(images), exc_info=True)
            middle = len(images) // 2
            head = self.generate(images[:middle], keys[:middle], request)
            return [*head, *self.generate(images[middle:], keys[middle:], request)]
        except Exception as error:  # vLLM has errors of its own
            text = reason(error, self._source, self._name)
            raise CaptionError(f"vLLM has failed and captions no more with {self._name}: {text}") from error
        return [read_output(output) for output in outputs]


def sampling_arguments(request: Request, key: str) -> dict[str, Any]:
    """A row's `SamplingParams`, every decoding parameter among them.

    Args:
        request: How a picture is to be captioned.
        key: Of the row, for its seed.

    >>> from hf_mllm_aug.captioners.decoding import resolve
    >>> arguments = sampling_arguments(Request("", resolve(), 30, seed=0, sentence_stop=False, language="en"), "a")
    >>> arguments["max_tokens"], arguments["temperature"], arguments["top_k"], arguments["repetition_penalty"]
    (30, 0.0, -1, 1.0)
    """
    return {**served.decoding(request, key), **served.extensions(request, neutral=True)}


def raw_prompt(image: PilImage.Image, prompt: str) -> dict[str, Any]:
    """A prompt for `LLM.generate`; without a mark for the picture, the picture comes first."""
    before, after = halves(resolve(prompt))
    return {"prompt": f"{before}{IMAGE_MARK}{after}", "multi_modal_data": {"image": image}}


def conversation(image: PilImage.Image, prompt: str) -> list[dict[str, Any]]:
    """A conversation for `LLM.chat`."""
    return served.question(prompt, {"type": "image_pil", "image_pil": image})


def read_output(output: Any) -> Generated | ImageError:
    """What vLLM wrote about one picture.

    Args:
        output: `vllm.RequestOutput`.
    """
    (found,) = output.outputs
    at_stop = isinstance(found.stop_reason, str)  # else it is a token's id, or None at the checkpoint's end token
    finish: FinishReason
    if found.finish_reason == "stop":
        finish = "sentence" if at_stop else "stop"
    elif found.finish_reason == "length":
        finish = "length"
    else:
        return ImageError(f"vLLM ended the picture's request: {found.finish_reason}")
    n_tokens = len(found.token_ids) - (finish == "stop")  # the end token is among them
    return Generated(found.text.strip(), n_tokens, finish)


def load(key: ModelKey) -> VllmEngine:
    """Load a model with vLLM, which takes most of the GPU's memory for itself.

    Args:
        key: Which. The GPU is the one that ``CUDA_VISIBLE_DEVICES`` shows.

    Raises:
        CheckpointError: The checkpoint is not there, or vLLM cannot load it.
        UsageError: vLLM is missing, or CUDA was used before this process was forked.
    """
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise UsageError("the engine 'vllm' needs the package vllm. To do: pip install 'hf-mllm-aug[vllm]'") from error
    from transformers import AutoConfig

    from hf_mllm_aug.captioners.prompters.suitability import refuse_misasked

    fork.check_cuda()
    try:
        refuse_foreign_code(key.source, key.label, key.revision)
        config: Any = AutoConfig.from_pretrained(key.source, revision=key.revision, trust_remote_code=False)
        refuse_misasked(key, config)
        raw = key.prompt_style == "segments"
        if raw and config.model_type != "llava":
            raise CheckpointError(
                f"{key.label}: the prompt style 'segments' is LLaVA's, but its model type is {config.model_type}"
            )
        llm = LLM(**model_arguments(key))
    except AugError:
        raise
    except Exception as error:  # vLLM has errors of its own
        raise CheckpointError(f"vLLM cannot load {key.label}: {reason(error, key.source, key.label)}") from error
    return VllmEngine(llm, SamplingParams, source=key.source, name=key.label, raw=raw)


def model_arguments(key: ModelKey) -> dict[str, Any]:
    """What `LLM` is told."""
    return {
        "model": key.source,
        "revision": key.revision,
        "tokenizer_revision": key.revision,
        "dtype": key.dtype,
        "trust_remote_code": False,
        "limit_mm_per_prompt": {"image": 1},
        "seed": 0,
        **({"quantization": key.quantization} if key.quantization is not None else {}),
    }
