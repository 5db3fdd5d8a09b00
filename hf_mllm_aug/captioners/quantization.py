"""Smaller weights: eight bits each, made by torchao while a model is loaded.

Only the linear layers of the language model are quantised, which are nearly all of a large model's weights. The vision
tower, what leads from it to the language model, the embeddings and the output layer stay as they are: they are small,
and captions depend on each of their numbers most.

- ``"int8"``: weights of eight bits with a scale an output channel, computed with in the model's number type. Half the
  memory of bfloat16, on any device. It is faster only where steps are compiled.
- ``"fp8"``: weights and activations in float8 with a scale a row, multiplied as such by GPUs of compute capability 8.9
  and later.

transformers' own way, `TorchAoConfig`, quantises tensor by tensor while it reads them. It is not taken, for two
reasons: of several weights that are one tensor in the checkpoint, as the queries, keys and values of Qwen-VL are, it
quantises the first and leaves the others unread; and it tells layers by names that are patterns. Here the layers
themselves are asked where they stand. So that a GPU need not hold the whole weights, they are read into the CPU's
memory and go to the device layer by layer.

Source: torchao's `quantize_`, `Int8WeightOnlyConfig` and `Float8DynamicActivationFloat8WeightConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hf_mllm_aug.errors import CheckpointError, UsageError

FP8_CAPABILITY = (8, 9)
"""Of CUDA devices, the first that multiply float8: Ada and Hopper."""


def check(kind: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """Make sure that weights can be quantised so, before any are read.

    Args:
        kind: An `engine.Quantization`; None for not at all.
        device: That the model is for.
        dtype: Of the weights before.

    Raises:
        UsageError: torchao is missing, or the device or the number type does not go with it.

    >>> check("fp8", torch.device("cpu"), torch.bfloat16)
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UsageError: quantization='fp8' needs a CUDA device of compute capability 8.9 or later, and this
    is cpu. To do: quantization='int8'
    """
    if kind is None:
        return
    if kind == "fp8":
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        if capability is None or capability < FP8_CAPABILITY:
            found = f"of {capability[0]}.{capability[1]}" if capability else str(device)
            wanted = ".".join(map(str, FP8_CAPABILITY))
            raise UsageError(
                f"quantization='fp8' needs a CUDA device of compute capability {wanted} or later, and this is {found}. "
                "To do: quantization='int8'"
            )
        if dtype != torch.bfloat16:
            raise UsageError("quantization='fp8' goes with dtype='bfloat16'")
    _torchao()


def refuse_quantised(config: Any, name: str) -> None:
    """Refuse a checkpoint whose weights are quantised already.

    Args:
        config: Of the checkpoint.
        name: What the message calls it.

    Raises:
        CheckpointError: They are.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
        raise CheckpointError(
            f"{name} is quantised already{f' ({method})' if method else ''}. To do: leave quantization= out"
        )


def quantise(model: Any, kind: str, device: torch.device, name: str) -> Any:
    """Quantise the language model of an MLLM, and put the whole on its device.

    Args:
        model: Of transformers, in the memory of the CPU; it is changed.
        kind: An `engine.Quantization`.
        device: That the model is for.
        name: What messages call it.

    Returns:
        The model.

    Raises:
        CheckpointError: It has no language model that could be told from its other parts.
    """
    chosen = {id(layer) for layer in linear_layers(model)}
    if not chosen:
        raise CheckpointError(
            f"{name}: a {type(model).__name__} does not say which part is its language model, so it cannot be "
            "quantised. To do: leave quantization= out"
        )
    _torchao().quantize_(model, _settings(kind), filter_fn=lambda module, _: id(module) in chosen, device=device)
    return model.to(device)


def linear_layers(model: Any) -> Iterator[nn.Linear]:
    """The layers that are quantised: those of the language model, but for its output and for weights of two layers."""
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        return
    output = model.get_output_embeddings()
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), set()).add(id(module))
    for module in decoder.modules():
        if isinstance(module, nn.Linear) and module is not output and len(owners[id(module.weight)]) == 1:
            yield module


def quantised_layers(model: Any) -> list[str]:
    """The names of the linear layers whose weights are no plain numbers.

    >>> quantised_layers(nn.Sequential(nn.Linear(2, 2)))
    []
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module.weight.data) is not torch.Tensor
    ]


def _settings(kind: str) -> Any:
    torchao = _torchao()
    if kind == "int8":
        return torchao.Int8WeightOnlyConfig()
    return torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())


def _torchao() -> Any:
    try:
        import torchao.quantization
    except ImportError as error:
        raise UsageError("quantization needs the package torchao. To do: pip install 'hf-mllm-aug[torchao]'") from error
    return torchao.quantization
