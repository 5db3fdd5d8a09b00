"""`Captioner`: the settings of one multimodal LLM, and the function that captions the rows of a data set with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hf_mllm_aug import schema
from hf_mllm_aug.captioners import decoding, description, identity, preset_data, presets, servers, suits
from hf_mllm_aug.captioners.devices import full_name
from hf_mllm_aug.captioners.engine import ENGINES, EngineKind, ModelKey, Quantization, Request, check_engine
from hf_mllm_aug.captioners.pipeline import Caption, caption_rows
from hf_mllm_aug.captioners.prompters.forms import DOCUMENTED
from hf_mllm_aug.captioners.rows import Column, hand_back, read_rows
from hf_mllm_aug.errors import CheckpointError, UnknownNameError, UsageError

# As the Hub has them: no doubled or closing sign, and no ending of a Git repository.
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])(?<!\.git)", re.ASCII)
_DTYPES = ("auto", "float32", "float16", "bfloat16")
_QUANTIZATIONS = get_args(Quantization)
_STYLES = get_args(presets.PromptStyle)
_DEFAULT_BATCH_SIZE = 8


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
            A folder of one of the paper's MLLMs is asked as the preset of that MLLM says; a Hub id of one is given as
            ``checkpoint`` of that preset, for what it is shows only when it is loaded. With ``engine="openai"`` the
            name that the server has for its model, whatever it looks like.
        checkpoint: With a preset's name: the folder or Hub id to take in place of its checkpoint. ``"minigpt-4"``
            needs it, for nobody publishes one ready to use.
        preset: How the MLLM is asked: ``"default"``, or ``"paper"`` for what the paper's scripts do, prompt, decoding
            and clean-up; see `captioners.preset_data`. Captions then end at the first full stop, whatever it is, so
            `Augment` should cut them by ``Shear(rule="seed")``: its default would end "A dog! It runs." at the dog.
        prompt: The question; ``<image>`` marks where the picture stands. None: the preset's, or what the model's
            documentation has.
        image_column: The column of the pictures, in any form that `images.to_rgb` takes.
        key_column: The column of the rows' keys, which decide what is sampled; without it the picture's pixels do.
        output_column: The column of the captions. None: ``caption_<slug>``.
        max_new_tokens: Tokens, not characters. The paper's scripts have 30.
        generation: Decoding parameters over those of the preset, by the names of `transformers`; see
            `decoding.NEUTRAL`.
        seed: For sampling. A row's caption depends on the seed and its key, not on the rows around it.
        batch_size: Pictures a generate call, however many `map` passes; of a server, requests at a time. None: the
            preset's or the engine's. Halved when GPU memory is short. On a CPU a small model works on several such
            calls at a time, one a thread of torch (`captioners.lanes`).
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None: the best that is there, and with
            ``map(with_rank=True)`` the GPU number rank modulo their count.
        dtype: ``"auto"`` (float32 on a CPU; bfloat16 on a GPU, or float16 where it lacks that), or its name.
        quantization: ``"int8"`` for the language model's weights in eight bits, half the memory of bfloat16, with the
            extra ``torchao``; ``"fp8"`` for weights and activations in float8, on GPUs of compute capability 8.9 and
            later. It changes captions. None: weights as they are. See `captioners.quantization`.
        compile: Whether decoding steps are compiled: True, False, or None for on a GPU from its ninth micro-batch on,
            where the model can be. It is in no hash and no plan, as the batch size and the device are not: captions
            are the same up to the rounding of sums. Where compiling fails, decoding goes on without.
        engine: What runs the model: ``"transformers"``; ``"vllm"``, on this machine's GPU; ``"openai"``, any server
            that speaks OpenAI's language.
        base_url: Of the server, such as ``"http://127.0.0.1:8000/v1"``. None: what ``OPENAI_BASE_URL`` says. It is in
            no hash: captions are the model's, whoever serves it. The server's key is read from ``OPENAI_API_KEY``.
        revision: Commit, branch or tag on the Hub. A branch that moves is not noticed by `map`'s cache. Of a server's
            model it is written down, and not checked.
        on_error: ``"null"``, or ``"raise"`` to end at the first picture that cannot be captioned.
        sentence_stop: End a row's decoding once its first sentence is over, and the caption with it. Its sheared form
            is the same as without. Ignored with beams.
        language: The captions' ISO 639 code, for ``sentence_stop``.
        prompt_style: How the prompt becomes the model's input, see `captioners.prompters`; ``"auto"`` for the preset's
            or what fits the checkpoint.
        name: What columns and configs are named after. None: the preset's name, the Hub id, or the folder's base name.

    Raises:
        UnknownNameError: There is no such captioner, engine or decoding parameter.
        UsageError: Another argument cannot work.

    Source: arXiv 2311.18765 and its released scripts, for the presets' prompts and lengths.

    >>> captioner = Captioner("qwen-vl", generation={"repetition_penalty": 1.1})
    >>> captioner.caption_column, captioner.error_column
    ('caption_qwen_vl', 'error_qwen_vl')
    >>> captioner.resolved_prompt, Captioner("qwen-vl", preset="paper").resolved_prompt
    ('<image>Describe the image in English:', '<image>Express emotional or artistic response:')
    """

    model: str | os.PathLike[str] = "tiny-llava"
    checkpoint: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    preset: presets.VariantName = field(default="default", kw_only=True)
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
    quantization: Quantization | None = field(default=None, kw_only=True)
    compile: bool | None = field(default=None, kw_only=True)
    engine: str = field(default="transformers", kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    revision: str | None = field(default=None, kw_only=True)
    on_error: Literal["null", "raise"] = field(default="null", kw_only=True)
    sentence_stop: bool = field(default=False, kw_only=True)
    language: str = field(default="en", kw_only=True)
    prompt_style: presets.PromptStyle = field(default="auto", kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_engine(self.engine)
        # Strings from here on, and folders by their whole path: the same ones after a change of directory.
        object.__setattr__(self, "model", os.fspath(self.model))
        if not self.served and self.named is None and os.path.isdir(self._model):
            object.__setattr__(self, "model", os.path.abspath(self._model))
        if self.checkpoint is not None:
            given = os.fspath(self.checkpoint)
            object.__setattr__(self, "checkpoint", os.path.abspath(given) if os.path.isdir(given) else given)
        if self.generation is not None:
            object.__setattr__(self, "generation", dict(self.generation))
        self._check_model()
        presets.check_variant(self.preset, self.mllm, self.label)
        for argument, value, known in (
            ("dtype", self.dtype, _DTYPES),
            ("on_error", self.on_error, ("null", "raise")),
            ("prompt_style", self.prompt_style, _STYLES),
        ):
            if value not in known:
                raise UnknownNameError(argument, str(value), known)
        if self.quantization not in (None, *_QUANTIZATIONS):
            raise UnknownNameError("quantization", str(self.quantization), _QUANTIZATIONS)
        if not (self.compile is None or isinstance(self.compile, bool)):
            raise UsageError(f"compile={self.compile!r} must be True, False or None")
        for argument, count in (("max_new_tokens", self.max_new_tokens), ("batch_size", self.batch_size)):
            if count is not None and (not _is_integer(count) or count < 1):
                raise UsageError(f"{argument}={count!r} must be an integer of 1 or more")
        if not _is_integer(self.seed):
            raise UsageError(f"seed={self.seed!r} must be an integer")
        presets.check_prompt(self.resolved_prompt)
        decoding.resolve(self.decoding)
        suits.check(self)
        if not schema.slug(self.label):
            raise UsageError(f"{self.label!r} has no letter a-z or digit to name columns after; pass name=")
        if self.caption_column in (self.error_column, self.image_column, self.key_column):
            raise UsageError(f"output_column={self.caption_column!r} is the name of another column of the captioner")
        if self.own_folder is not None or self.base_url is not None or self.compile is not None:
            identity.hash_by_content(type(self))

    def _check_model(self) -> None:
        if self.named is None and self.checkpoint is not None:
            known = ", ".join(presets.PRESETS)
            raise UsageError(f"checkpoint= goes with a preset's name ({known}), but model is {self._model!r}")
        given = self.given
        if self.served:  # it alone knows its names
            return
        if given is not None and not os.path.isdir(given) and not _HUB_ID.fullmatch(given):
            if "/" in given or "\\" in given or self.checkpoint is not None:
                raise UsageError(f"captioner {given!r}: there is no such folder")
            hint = "Or give a Hub id (org/name) or a folder."
            raise UnknownNameError("captioner", given, presets.PRESETS, hint)
        if self.checkpoint is not None and self.folder is not None:
            presets.check_architecture(self.folder, self.named)

    @property
    def _model(self) -> str:
        return os.fspath(self.model)

    @property
    def given(self) -> str | None:
        """The checkpoint that the caller names: a Hub id or a folder; None if it is the preset's."""
        if self.checkpoint is not None:
            return os.fspath(self.checkpoint)
        return self._model if self.named is None else None

    @property
    def kind(self) -> EngineKind:
        """What is known of the engine."""
        return ENGINES[self.engine]

    @property
    def served(self) -> bool:
        """Whether a server has the model: its name is then none of a folder's here."""
        return self.kind.server

    @property
    def named(self) -> presets.Preset | None:
        """The preset of this name, if ``model`` is one."""
        return presets.PRESETS.get(self._model)

    @property
    def mllm(self) -> presets.Preset | None:
        """The preset by which the model is asked: that of the name, or that of the checkpoint's architecture."""
        if self.named is not None or (self.served and os.path.isdir(self._model)):
            return self.named
        return presets.of_checkpoint(self._model)

    @property
    def variant(self) -> presets.Variant:
        """How the model is asked where no argument says otherwise."""
        if self.mllm is not None:
            return self.mllm.variants[self.preset]
        # Of a folder, too: what it stands for shows in the processor, and for the hash the files' digest is enough.
        return presets.Variant(DOCUMENTED)

    @property
    def source(self) -> str | None:
        """Where the checkpoint is: a Hub id or a folder; None where it has yet to be made."""
        if self.given is not None or self.named is None:
            return self.given
        return None if self.named.source is None else str(self.named.source)

    @property
    def folder(self) -> Path | None:
        """The checkpoint's folder; None for one on the Hub or on a server."""
        if self.served:
            return None
        if self.given is None and self.named is not None:
            return self.named.source if isinstance(self.named.source, Path) else None
        return Path(self.given) if self.given is not None and os.path.isdir(self.given) else None

    @property
    def own_folder(self) -> Path | None:
        """The checkpoint's folder, unless it is of this package: its files may change, and be elsewhere tomorrow."""
        embedded = self.given is None and self._model in preset_data.BUILT_IN
        return None if embedded else self.folder

    @property
    def label(self) -> str:
        """The captioner's name; never a path."""
        if self.name is not None:
            return self.name
        if self.served:
            return self._model.rstrip("/").rpartition("/")[2] if os.path.isabs(self._model) else self._model
        if self.named is not None or self.folder is None:
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
        """The question that is asked; `forms.DOCUMENTED` where that is for the checkpoint to say."""
        return self.variant.prompt if self.prompt is None else self.prompt

    @property
    def resolved_prompt_style(self) -> str:
        """As ``prompt_style``; ``"auto"`` where the checkpoint decides. Servers ask by their chat template."""
        if self.served:
            return "chat"
        return self.mllm.prompt_style if self.mllm and self.prompt_style == "auto" else self.prompt_style

    @property
    def resolved_revision(self) -> str | None:
        """The revision that is asked for."""
        named = None if self.given or self.served else self.named
        return self.revision if self.revision is not None or named is None else named.revision

    @property
    def decoding(self) -> dict[str, Any]:
        """Every decoding parameter, set or neutral."""
        return decoding.resolve(self.variant.decoding, self.generation)

    @property
    def micro_batch(self) -> int:
        """Pictures a generate call."""
        preset_size = self.mllm.batch_size if self.mllm else _DEFAULT_BATCH_SIZE
        return self.batch_size or self.kind.batch_size or preset_size

    @property
    def request(self) -> Request:
        """How an engine is to be asked."""
        settings = self.decoding
        return Request(
            prompt=self.resolved_prompt,
            decoding=settings,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            sentence_stop=self.sentence_stop and settings["num_beams"] == 1,
            language=self.language,
            clean_up=self.variant.clean_up,
            compile=self.compile,
        )

    def model_key(self, device: str | None) -> ModelKey:
        """Which model is to be loaded.

        Raises:
            CheckpointError: The preset's checkpoint has yet to be made.
            UsageError: The device is a GPU, which cannot be used in a forked process; or no server was named.
        """
        if self.source is None:
            absent = self.named.absent if self.named else ""
            here = os.path.join(os.curdir, self._model)
            found = f" A folder of this name is here: checkpoint={here!r}" if os.path.isdir(here) else ""
            raise CheckpointError(f"captioner {self.label!r} {absent}{found}")
        return ModelKey(
            engine=self.engine,
            source=self.source,
            revision=self.resolved_revision,
            dtype=self.dtype,
            device=full_name(device) if self.kind.device else None,
            prompt_style=self.resolved_prompt_style,
            digest=identity.digest(self.own_folder) if self.own_folder is not None else None,
            preset=self.mllm.name if self.mllm else None,
            base_url=servers.address(self.base_url) if self.served else None,
            quantization=self.quantization,
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that make an equal captioner."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def describe(self) -> dict[str, Any]:
        """What made the captions, for a data set's card.

        Returns:
            Values that JSON can hold: no path, and every decoding parameter. ``dtype`` is the one that was asked for:
            what ``"auto"`` comes to differs from machine to machine, and is no part of a captioner's `identity`. The
            description and the licence are the preset's where the checkpoint is; of other weights, nobody has said.

        >>> Captioner().describe()["decoding"]["max_new_tokens"]
        30
        """
        return description.describe(self)

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
