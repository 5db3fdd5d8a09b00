"""`Augment`: captions by several MLLMs, sheared, as one function for `map`.

The module is not called ``augment``, so that importing it never hides the function of that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.captioners.pipeline import Caption, caption_rows
from hf_mllm_aug.captioners.rows import Column, Rows, hand_back, read_rows
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.shearing import Shear

if TYPE_CHECKING:
    from datasets import Features


@dataclass(frozen=True)
class Augment:
    """Adds each captioner's sheared caption to every row: a function for `Dataset.map` and `IterableDataset.map`.

    For a captioner ``llava-1.5`` these columns are added: ``caption_llava_1_5``, and ``error_llava_1_5`` with the
    reason where the caption is null; with ``keep_unsheared`` also ``generated_llava_1_5``, the text before shearing.
    A picture is decoded once for all captioners. Where only the first sentence is kept, only the first sentence is
    generated.

    An `IterableDataset` decodes pictures before any function sees them, and its first broken one ends the iteration:
    write ``dataset.decode(False).map(augment)``.

    Args:
        captioners: A name, a `Captioner`, or several.
        shear: How captions are cut; None leaves them as generated.
        keep_unsheared: Whether to keep the texts before shearing, too. They are then generated in full.
        image_column: The column of the pictures; None: the captioners' own, ``"image"`` unless they say otherwise.
        key_column: The column of the rows' keys; None: the captioners' own.
        batch_size: Pictures a generate call; None: the captioners' own.
        device: None: the captioners' own.
        on_error: ``"null"`` or ``"raise"``; None: the captioners' own.

    Raises:
        UnknownNameError: There is no such captioner.
        UsageError: Two captioners would write the same column, or read different ones.

    Source: arXiv 2311.18765.

    >>> Augment(["tiny-llava", "llava-1.5"]).output_columns
    ['caption_tiny_llava', 'error_tiny_llava', 'caption_llava_1_5', 'error_llava_1_5']
    """

    captioners: str | Captioner | Sequence[str | Captioner] = "tiny-llava"
    shear: Shear | None = field(default_factory=Shear, kw_only=True)
    keep_unsheared: bool = field(default=False, kw_only=True)
    image_column: str | None = field(default=None, kw_only=True)
    key_column: str | None = field(default=None, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    on_error: Literal["null", "raise"] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given = [self.captioners] if isinstance(self.captioners, (str, Captioner)) else list(self.captioners)
        if not given:
            raise UsageError("no captioner: name at least one")
        # Captioners, not names: their pickles, which `map`'s cache goes by, know the checkpoint.
        object.__setattr__(self, "captioners", tuple(self._settled(captioner) for captioner in given))
        repeated = [column for column, count in Counter(self.output_columns).items() if count > 1]
        if repeated:
            raise UsageError(f"two captioners would both write {repeated[0]!r}. To do: give one of them another name=")
        for setting in ("image_column", "key_column"):
            found = {getattr(captioner, setting) for captioner in self.members}
            if len(found) > 1:
                names = ", ".join(sorted(found))
                raise UsageError(f"the captioners differ in {setting}: {names}. To do: pass {setting}=")

    def _settled(self, captioner: str | Captioner) -> Captioner:
        captioner = Captioner(captioner) if isinstance(captioner, str) else captioner
        names = ("image_column", "key_column", "batch_size", "device", "on_error")
        changes: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.shear is not None and self.shear.stops_at_sentence and not self.keep_unsheared:
            changes |= {"sentence_stop": True, "language": self.shear.language}
        return replace(captioner, **changes) if changes else captioner

    @property
    def members(self) -> tuple[Captioner, ...]:
        """The captioners, with the settings that they run with."""
        return cast("tuple[Captioner, ...]", self.captioners)

    @property
    def output_columns(self) -> list[str]:
        """The columns that are added, in order."""
        return [column for captioner in self.members for column in self._names(captioner)]

    def _names(self, captioner: Captioner) -> list[str]:
        generated = [captioner.generated_column] if self.keep_unsheared else []
        return [captioner.caption_column, *generated, captioner.error_column]

    def features(self, features: Features) -> Features:
        """The features of the augmented rows.

        Args:
            features: Those of the rows before.

        Returns:
            The same, and a string column for each of `output_columns`.
        """
        from datasets import Features, Value

        return Features({**features, **{column: Value("string") for column in self.output_columns}})

    def describe(self) -> dict[str, Any]:
        """What made the captions, for a data set's card: JSON values, no path."""
        return {
            "captioners": [captioner.describe() for captioner in self.members],
            "shear": self.shear.describe() if self.shear is not None else None,
            "keep_unsheared": self.keep_unsheared,
        }

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Caption and shear a batch or one example.

        Args:
            batch: Rows as `map` passes them.
            rank: The worker's number, from ``map(with_rank=True)``.

        Returns:
            The columns of `output_columns`: lists for a batch, scalars for an example.

        Raises:
            ColumnError: The image column is missing, or the raw captions where shearing goes by their length.
            CheckpointError: A model cannot be loaded.
            CaptionError: A picture could not be captioned and ``on_error`` is ``"raise"``.
        """
        rows = read_rows(batch, self.members[0].image_column, self.members[0].key_column)
        references = self._references(rows)
        columns: dict[str, Column] = {}
        for captioner, captions in zip(self.members, caption_rows(self.members, rows, rank), strict=True):
            sheared = [self.sheared(caption, raw) for caption, raw in zip(captions, references, strict=True)]
            columns[captioner.caption_column] = [caption.text for caption in sheared]
            if self.keep_unsheared:
                columns[captioner.generated_column] = [caption.text for caption in captions]
            columns[captioner.error_column] = [caption.error for caption in sheared]
        return hand_back(rows, columns)

    def _references(self, rows: Rows) -> list[str | None]:
        if self.shear is None or self.shear.rule != "raw":
            return [None] * len(rows)
        return rows.column(self.shear.reference_column, "give Shear(reference_column=) the column of the raw captions")

    def sheared(self, caption: Caption, reference: str | None) -> Caption:
        """A caption cut as the settings say.

        Args:
            caption: As it was generated.
            reference: The raw caption of the row, where shearing goes by its length.
        """
        if self.shear is None or caption.text is None:
            return caption
        text = self.shear.one(caption.text, reference)
        return replace(caption, text=text) if text else Caption(None, "nothing was left after shearing")


augment = Augment()
"""`Augment` with its defaults: ``load_dataset(...).map(augment)``."""
