"""Models that embed pictures and captions in one space, loaded from a checkpoint and used in batches.

Any model of transformers with `get_image_features` and `get_text_features` will do: CLIP, SigLIP, SigLIP 2, ALIGN,
Chinese-CLIP, AltCLIP, vision-text dual encoders. BLIP's retrieval models embed by their contrastive heads, which
transformers offers by no such methods: `BlipTowers` adds them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_mllm_aug.checkpoints import label, reason, refuse_foreign_code, refuse_missing_weights
from hf_mllm_aug.errors import AugError, CheckpointError, UsageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

# Models trained on captions padded to one length see another distribution when these are padded less.
_FIXED_LENGTH = {"align": 64, "siglip": 64, "siglip2": 64}
_LONGEST = {"blip": 35}  # tokens; where BLIP's authors cut captions in retrieval, far below its 512 positions
# These text towers number their positions from the padding token's id on, so that many stay unused.
_POSITIONS_AFTER_PADDING = frozenset({"altclip_text_model", "camembert", "roberta", "xlm-roberta"})
_EMBEDDED = Path(__file__).parent / "captioners" / "tiny"


@dataclass(frozen=True)
class DualEncoder:
    """A loaded model with its image processor and tokenizer.

    Args:
        model: A model of transformers with `get_image_features` and `get_text_features`, on its device; or what has the
            same methods and ``config``, ``device`` and ``dtype``, such as `BlipTowers`.
        image_processor: Takes RGB pictures, gives ``pixel_values``.
        tokenizer: The text side's.
        name: What to call it in results.
        revision: The commit that a Hub id was loaded from, if known.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    name: str
    revision: str | None = None

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> DualEncoder:
        """Load a checkpoint.

        Args:
            model: A Hub id, a local folder, or the name of an embedded model.
            revision: Commit, tag or branch of a Hub id.
            device: None takes the GPU if there is one.
            dtype: Of weights and activations, a name or a type of torch. Embeddings are float32 in any case.

        Raises:
            CheckpointError: There is no such checkpoint, it is damaged or incomplete, it is no dual encoder, or it
                would need code from its repository.
            UsageError: There is no such type or device.
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        given = os.fspath(model)
        embedded = _EMBEDDED / given.removeprefix("tiny-")
        is_embedded = given.startswith("tiny-") and embedded.is_dir()
        source, name = (str(embedded), given) if is_embedded else (given, label(given))
        place = _device(device)
        precision = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(precision, torch.dtype) or not precision.is_floating_point:
            raise UsageError(
                f"dtype is {dtype!r}: give the name of a float type of torch, such as 'float32' or 'bfloat16'"
            )
        where: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        try:
            refuse_foreign_code(source, name, revision)
            network, info = _network(source, dtype=precision, output_loading_info=True, **where)
            network = network.eval().to(place)
            auto_processor: Any = AutoImageProcessor
            processor = auto_processor.from_pretrained(source, backend="pil", **where)
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
        except AugError:
            raise
        except Exception as error:  # safetensors, pickle and torch have errors of their own
            raise CheckpointError(f"cannot load {name}: {reason(error, source, name)}") from error
        if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
            raise CheckpointError(
                f"{name} is a {type(network).__name__}, which embeds no image-text pairs: "
                "give a dual encoder such as CLIP or SigLIP"
            )
        refuse_missing_weights(info, name)
        return cls(network, processor, tokenizer, name, getattr(network.config, "_commit_hash", None))

    def images(self, pictures: Sequence[PilImage.Image]) -> torch.Tensor:
        """Embed pictures.

        Args:
            pictures: RGB pictures of any sizes; one batch.

        Returns:
            (n, dim) float32 on the CPU, not normalized.
        """
        inputs = self.image_processor(images=list(pictures), return_tensors="pt")
        inputs = {name: self._placed(values) for name, values in inputs.items()}
        with torch.inference_mode():
            return _pooled(self.model.get_image_features(**inputs))

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        """Embed captions; longer ones than the model's context are cut.

        Args:
            captions: One batch.

        Returns:
            (n, dim) float32 on the CPU, not normalized.
        """
        inputs = {name: self._placed(values) for name, values in self.tokens(captions).items()}
        with torch.inference_mode():
            return _pooled(self.model.get_text_features(**inputs))

    def tokens(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tokenize captions as the model was trained on them: cut to its context, padded if its length is fixed.

        Args:
            captions: One batch.

        Returns:
            The tokenizer's tensors, (n, tokens), on the CPU.
        """
        config = self.model.config
        fixed = _FIXED_LENGTH.get(config.model_type)
        text_config = getattr(config, "text_config", config)
        context = getattr(text_config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        if getattr(text_config, "model_type", None) in _POSITIONS_AFTER_PADDING:
            context -= text_config.pad_token_id + 1
        wanted = fixed or _LONGEST.get(config.model_type, context)
        return dict(
            self.tokenizer(
                list(captions),
                padding="max_length" if fixed else True,
                truncation=True,
                max_length=min(wanted, context, self.tokenizer.model_max_length),
                return_tensors="pt",
            )
        )

    def _placed(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.model.device, self.model.dtype if values.is_floating_point() else None)


class BlipTowers(torch.nn.Module):
    """BLIP's image-text contrast (ITC) as a dual encoder (Li et al. 2022, arXiv:2201.12086).

    The first token of each tower goes through the head that contrasts it: what `BlipForImageTextRetrieval` scores with
    ``use_itm_head=False``. The matching head (ITM), which reads picture and caption together, ranks no gallery.

    Args:
        network: A `BlipForImageTextRetrieval`.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.config = network.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        place: torch.device = self.network.device
        return place

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        precision: torch.dtype = self.network.dtype
        return precision

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
        """Embed pictures, (n, dim), not normalized."""
        states = self.network.vision_model(pixel_values=pixel_values).last_hidden_state
        features: torch.Tensor = self.network.vision_proj(states[:, 0])
        return features

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        """Embed captions, (n, dim), not normalized; what else a tokenizer gives is no input of BLIP's."""
        states = self.network.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        features: torch.Tensor = self.network.text_proj(states[:, 0])
        return features


def _device(wanted: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UsageError(f"device is {wanted!r}: give one of torch's, such as 'cpu', 'cuda:1' or 'mps'") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device is {str(place)!r}, and torch finds {torch.cuda.device_count()} CUDA devices here")
    return place


def _network(source: str, *, dtype: torch.dtype, revision: str | None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model, by the class that has the weights of its projections, and what loading reports."""
    from transformers import AutoConfig, AutoModel, BlipForImageTextRetrieval

    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    # BLIP's base model has projections of other names, which no published checkpoint fills.
    is_blip = config.model_type == "blip" and "BlipModel" not in (config.architectures or ())
    chosen: Any = BlipForImageTextRetrieval if is_blip else AutoModel
    network, info = chosen.from_pretrained(source, dtype=dtype, revision=revision, **options)
    return (BlipTowers(network) if is_blip else network), info


def _pooled(features: Any) -> torch.Tensor:
    """The (n, dim) tensor in what get_*_features returned: transformers 5 gives an output object, 4 gave the tensor."""
    if isinstance(features, tuple):
        features = features[1]
    elif not isinstance(features, torch.Tensor):
        features = features.pooler_output
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise CheckpointError("the model gives no single vector per picture and caption: it is no dual encoder")
    return features.float().cpu()
