"""`Captioner`: the settings of one multimodal LLM, and the function that captions the rows of a data set with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import hf_mllm_aug
from hf_mllm_aug import schema
from hf_mllm_aug.captioners import decoding, identity, presets
from hf_mllm_aug.captioners.engine import ModelKey, Request, check_engine
from hf_mllm_aug.captioners.pipeline import Caption, caption_rows
from hf_mllm_aug.captioners.rows import Column, hand_back, read_rows
from hf_mllm_aug.errors import UnknownNameError, UsageError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DTYPES = ("auto", "float32", "float16", "bfloat16")
_STYLES = ("auto", "segments", "chat")
_DEFAULT_PROMPT = "Describe the image in English:"
_DEFAULT_BATCH_SIZE = 8


@dataclass(frozen=True)
class Captioner:
    """Captions pictures with one multimodal LLM: a function for `Dataset.map` and `IterableDataset.map`.

    It holds settings only and is cheap to make, hash and pickle; the model is loaded when the first picture comes,
    once a process. Called with a batch it returns lists, called with one example scalars, so ``map(c)`` and ``map(c,
    batched=True)`` give the same rows. A picture that cannot be captioned leaves its neighbours alone: its caption is
    null and the error column says why.

    Pictures of a `Dataset` are read undecoded, so broken ones do no harm. An `IterableDataset` decodes them before
    any function sees them, and its first broken picture ends the iteration: call ``.decode(False)`` before ``.map``.

    Args:
        model: A preset (`captioners.PRESETS`), a Hub id ``org/name`` of an image-text-to-text model, or a local folder.
        prompt: The question; ``<image>`` marks where the picture stands. None: the preset's.
        image_column: The column of the pictures, in any form that `images.to_rgb` takes.
        key_column: The column of the rows' keys, which decide what is sampled; without it the picture's pixels do.
        output_column: The column of the captions. None: ``caption_<slug>``.
        max_new_tokens: Tokens, not characters. The paper's scripts have 30.
        generation: Decoding parameters over those of the preset, by the names of `transformers`; see
            `decoding.NEUTRAL`.
        seed: For sampling. A row's caption depends on the seed and its key, not on the rows around it.
        batch_size: Pictures a generate call, however many `map` passes. None: the preset's. Halved when GPU memory is
            short.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None: the best that is there, and with
            ``map(with_rank=True)`` the GPU number rank modulo their count.
        dtype: ``"auto"`` (float32 on a CPU; bfloat16 on a GPU, or float16 where it lacks that), or its name.
        engine: What runs the model.
        revision: Commit, branch or tag on the Hub. A branch that moves is not noticed by `map`'s cache.
        on_error: ``"null"``, or ``"raise"`` to end at the first picture that cannot be captioned.
        sentence_stop: End a row's decoding once its first sentence is over, and the caption with it. Its sheared form
            is the same as without. Ignored with beams.
        language: The captions' ISO 639 code, for ``sentence_stop``.
        prompt_style: ``"segments"``, ``"chat"``, or ``"auto"`` for the preset's or what the checkpoint has.
        name: What columns and configs are named after. None: the preset's name, the Hub id, or the folder's base name.

    Raises:
        UnknownNameError: There is no such captioner, engine or decoding parameter.
        UsageError: Another argument cannot work.

    Source: arXiv 2311.18765 and its released scripts, for the presets' prompts and lengths.

    >>> captioner = Captioner("llava-1.5", generation={"do_sample": True, "temperature": 0.2})
    >>> captioner.caption_column, captioner.error_column
    ('caption_llava_1_5', 'error_llava_1_5')
    >>> captioner.describe()["prompt"]
    'Describe <image> in English:'
    """

    model: str | os.PathLike[str] = "tiny-llava"
    prompt: str | None = field(default=None, kw_only=True)
    image_column: str = field(default=schema.IMAGE, kw_only=True)
    key_column: str = field(default=schema.KEY, kw_only=True)
    output_column: str | None = field(default=None, kw_only=True)
    max_new_tokens: int = field(default=30, kw_only=True)
    generation: Mapping[str, Any] | None = field(default=None, kw_only=True, hash=False)
    seed: int = field(default=0, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    dtype: str = field(default="auto", kw_only=True)
    engine: str = field(default="transformers", kw_only=True)
    revision: str | None = field(default=None, kw_only=True)
    on_error: Literal["null", "raise"] = field(default="null", kw_only=True)
    sentence_stop: bool = field(default=False, kw_only=True)
    language: str = field(default="en", kw_only=True)
    prompt_style: Literal["auto", "segments", "chat"] = field(default="auto", kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", os.fspath(self.model))  # a string from here on
        if self.generation is not None:
            object.__setattr__(self, "generation", dict(self.generation))
        self._check_model()
        check_engine(self.engine)
        for argument, value, known in (
            ("dtype", self.dtype, _DTYPES),
            ("on_error", self.on_error, ("null", "raise")),
            ("prompt_style", self.prompt_style, _STYLES),
        ):
            if value not in known:
                raise UnknownNameError(argument, str(value), known)
        for argument, count in (("max_new_tokens", self.max_new_tokens), ("batch_size", self.batch_size)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise UsageError(f"{argument}={count!r} must be an integer of 1 or more")
        if self.resolved_prompt.count(presets.IMAGE_MARK) > 1:
            raise UsageError(f"the prompt {self.resolved_prompt!r} has {presets.IMAGE_MARK} more than once")
        decoding.resolve(self.decoding)
        if not schema.slug(self.label):
            raise UsageError(f"{self.label!r} has no letter a-z or digit to name columns after; pass name=")
        if self.caption_column in (self.error_column, self.image_column, self.key_column):
            raise UsageError(f"output_column={self.caption_column!r} is the name of another column of the captioner")
        if self.folder is not None and self._is_own:
            identity.hash_by_content(type(self))

    def _check_model(self) -> None:
        if self.preset is not None or os.path.isdir(self._model):
            return
        if self._model in presets.WITHOUT_CODE:
            known = ", ".join(sorted(presets.PRESETS))
            raise UsageError(
                f"captioner {self._model!r} ({presets.WITHOUT_CODE[self._model]}): this version of hf-mllm-aug "
                f"({hf_mllm_aug.__version__}) has no modelling code for it, and neither has transformers. "
                f"To do: take one of {known}, or the Hub id of an image-text-to-text model"
            )
        if not _HUB_ID.fullmatch(self._model):
            if "/" in self._model or "\\" in self._model:
                raise UsageError(f"captioner {self._model!r}: there is no such folder")
            hint = "Or give a Hub id (org/name) or a folder."
            raise UnknownNameError("captioner", self._model, [*presets.PRESETS, *presets.WITHOUT_CODE], hint)

    @property
    def _model(self) -> str:
        return os.fspath(self.model)

    @property
    def _is_own(self) -> bool:
        """Whether the model is the caller's own, not a preset of this package."""
        return self.preset is None or self.preset.name not in presets.BUILT_IN

    @property
    def preset(self) -> presets.Preset | None:
        """The preset of this name, if ``model`` is one."""
        return presets.PRESETS.get(self._model)

    @property
    def source(self) -> str:
        """Where the checkpoint is: a Hub id or a folder."""
        return str(self.preset.source) if self.preset else self._model

    @property
    def folder(self) -> Path | None:
        """The checkpoint's folder; None for one on the Hub."""
        if self.preset is not None:
            return self.preset.source if isinstance(self.preset.source, Path) else None
        return Path(self._model) if os.path.isdir(self._model) else None

    @property
    def label(self) -> str:
        """The captioner's name; never a path."""
        if self.name is not None:
            return self.name
        if self.preset is not None or self.folder is None:
            return self._model
        return self.folder.resolve().name

    @property
    def caption_column(self) -> str:
        """The column of the captions."""
        return self.output_column or schema.caption_column(self.label)

    @property
    def error_column(self) -> str:
        """The column that says why a caption is null; itself null where there is a caption."""
        return schema.error_column(self.label)

    @property
    def generated_column(self) -> str:
        """The column of the texts before shearing, where they are kept."""
        return schema.generated_column(self.label)

    @property
    def resolved_prompt(self) -> str:
        """The question that is asked."""
        if self.prompt is not None:
            return self.prompt
        return self.preset.prompt if self.preset else _DEFAULT_PROMPT

    @property
    def resolved_prompt_style(self) -> str:
        """``"segments"``, ``"chat"``, or ``"auto"`` where the checkpoint decides."""
        return self.preset.prompt_style if self.preset and self.prompt_style == "auto" else self.prompt_style

    @property
    def resolved_revision(self) -> str | None:
        """The revision that is asked for."""
        return self.revision if self.revision is not None or self.preset is None else self.preset.revision

    @property
    def decoding(self) -> dict[str, Any]:
        """Every decoding parameter, set or neutral."""
        return decoding.resolve(self.preset.decoding if self.preset else None, self.generation)

    @property
    def micro_batch(self) -> int:
        """Pictures a generate call."""
        return self.batch_size or (self.preset.batch_size if self.preset else _DEFAULT_BATCH_SIZE)

    @property
    def request(self) -> Request:
        """How an engine is to be asked."""
        return Request(
            prompt=self.resolved_prompt,
            decoding=self.decoding,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            sentence_stop=self.sentence_stop and self.decoding["num_beams"] == 1,
            language=self.language,
        )

    def model_key(self, device: str | None) -> ModelKey:
        """Which model is to be loaded."""
        return ModelKey(
            engine=self.engine,
            source=self.source,
            revision=self.resolved_revision,
            dtype=self.dtype,
            device=device,
            prompt_style=self.resolved_prompt_style,
            digest=identity.digest(self.folder) if self.folder is not None and self._is_own else None,
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that make an equal captioner."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def describe(self) -> dict[str, Any]:
        """What made the captions, for a data set's card.

        Returns:
            Values that JSON can hold: no path, and every decoding parameter.

        >>> Captioner().describe()["decoding"]["max_new_tokens"]
        30
        """
        preset = self.preset
        embedded = self.folder is not None
        return {
            "name": self.label,
            "model": self.label if embedded else self.source,
            "revision": self.resolved_revision,
            "digest": identity.digest(self.folder) if self.folder is not None else None,
            "engine": self.engine,
            "prompt": self.resolved_prompt,
            "prompt_style": self.resolved_prompt_style,
            "decoding": {
                **self.decoding,
                "max_new_tokens": self.max_new_tokens,
                "seed": self.seed,
                "sentence_stop": self.request.sentence_stop,
                "language": self.language,
            },
            "published_decoding": dict(preset.published_decoding) if preset else {},
            "dtype": self.dtype,
            "package": f"hf-mllm-aug {hf_mllm_aug.__version__}",
            "description": preset.description if preset else "",
            "licence": preset.licence if preset else None,
            "citation": preset.citation if preset else None,
        }

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Caption a batch or one example.

        Args:
            batch: Rows as `map` passes them.
            rank: The worker's number, from ``map(with_rank=True)``.

        Returns:
            The caption and the error column: lists for a batch, scalars for an example.

        Raises:
            ColumnError: The image column is missing.
            CheckpointError: The model cannot be loaded.
            CaptionError: A picture could not be captioned and ``on_error`` is ``"raise"``.
        """
        rows = read_rows(batch, self.image_column, self.key_column)
        (captions,) = caption_rows([self], rows, rank)
        return hand_back(rows, self.columns(captions))

    def columns(self, captions: list[Caption]) -> dict[str, Column]:
        """Lay captions out in columns."""
        return {
            self.caption_column: [caption.text for caption in captions],
            self.error_column: [caption.error for caption in captions],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return identity.reduced(self, self.settings())
