"""Text shearing: cut a model's caption back to the style and length of a web caption.

Multimodal LLMs write long captions whose tails hallucinate. The paper (arXiv 2311.18765) shears them: its first version
keeps as many words as the raw caption has (rule ``"raw"``), its released code the text before the first ``.`` (rule
``"seed"``, which makes "A view of St" of "A view of St. Peter's"). The rule ``"sentence"`` is the released form done
right; `sentences` says where a sentence ends.

The module is not called ``shear``, so that importing it never hides the function of that name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from typing import Any

from hf_mllm_aug import schema
from hf_mllm_aug.checkpoints import label, reason
from hf_mllm_aug.errors import CheckpointError, ColumnError, UnknownNameError, UsageError
from hf_mllm_aug.sentences import first_sentence, tidy
from hf_mllm_aug.sentences import first_sentence_end as first_sentence_end

RULES = ("sentence", "raw", "seed")

# Raise it with every change of what `shear` returns: it is part of a `Shear`'s state, hence of datasets' fingerprints.
CODE_VERSION = 2

_SENTENCEX = "sentencex"

_WORD = re.compile(r"\S+")
# Words that cannot end an English caption: what follows them has been cut off.
_DANGLING_WORDS = """
    a an the this that these those its his her their my your our and or but nor so as if while because of in on at by to
    from with without into onto over under above below behind between beside near next through across along around
    against for about like than is are was were be been being has have had which who whose where when very some
"""
_DANGLING = frozenset(_DANGLING_WORDS.split())
_DANGLING_MARKS = ",;:-–—/&+=(<[{“„«‹‘「『《（【、，；：·|~"


def shear(
    text: str | None,
    *,
    rule: str = "sentence",
    reference: str | None = None,
    max_words: int | None = None,
    max_tokens: int | None = None,
    tokenizer: Any = None,
    trim_tail: bool = False,
    language: str = "en",
) -> str | None:
    """Shear one caption. Shearing twice gives what shearing once gives.

    Args:
        text: The caption; None stays None.
        rule: ``"sentence"``: up to the end of the first sentence, its closing full stop dropped; a blank line ends a
            sentence too, other line breaks become spaces. ``"raw"``: no more words than ``reference`` has. ``"seed"``:
            literally ``text.split('.')[0].strip()``, as the paper's released code has it.
        reference: The raw caption, for the rule ``"raw"``; the other rules ignore it. An empty or blank one has no
            length to cut to, so the text stays as long as it is.
        max_words: At most so many words (runs of characters without a blank), after the rule.
        max_tokens: At most so many tokens of ``tokenizer``, special tokens not counted; cut between words where there
            is a choice.
        tokenizer: A transformers tokenizer, or the name or folder of one.
        trim_tail: After a cut by length, drop what dangles: "a dog on the" becomes "a dog". The function words that it
            knows are English.
        language: An ISO 639 code for the rule ``"sentence"``.

    Returns:
        The sheared caption.

    Raises:
        UnknownNameError: There is no such rule.
        UsageError: ``text`` is no string, a limit is below 1, ``max_tokens`` lacks its tokenizer, or the rule ``"raw"``
            its reference.

    Source: arXiv 2311.18765 and its released code.

    >>> shear("A view of St. Peter's Basilica at dusk. The sky is red.")
    "A view of St. Peter's Basilica at dusk"
    >>> shear("A dog on the grass next to a ball. It is", rule="raw", reference="my dog on grass", trim_tail=True)
    'A dog'
    >>> shear("A 3.5 inch floppy disk.", rule="seed")
    'A 3'
    """
    _check(rule, max_words, max_tokens, tokenizer)
    if text is None:
        return None
    if rule == "raw" and reference is None:
        raise UsageError("the rule 'raw' shears to the length of the raw caption: pass reference=")
    return _shear(text, rule, reference, max_words, max_tokens, _loaded(tokenizer), trim_tail, language)


@dataclass(frozen=True)
class Shear:
    """Shear caption columns: a function for ``Dataset.map`` and ``IterableDataset.map``, batched or not.

    Args:
        columns: The columns to shear; None means every ``caption_*`` column, hence never the raw ``caption``.
        rule: As for `shear`.
        reference_column: The raw captions, for the rule ``"raw"``. A row whose raw caption is null, empty or
            blank keeps its captions as long as they are: there is no length to cut them to.
        max_words: As for `shear`.
        max_tokens: As for `shear`.
        tokenizer: As for `shear`. A name hashes alike on every machine; an object as `datasets` hashes it.
        trim_tail: As for `shear`.
        language: As for `shear`.

    Raises:
        UnknownNameError: There is no such rule.
        UsageError: A limit is below 1, or ``max_tokens`` lacks its tokenizer.

    Source: arXiv 2311.18765 and its released code.

    >>> Shear()({"caption_otter": ["A red bus. It is big.", None], "caption": ["bus.", "x."]})
    {'caption_otter': ['A red bus', None]}
    >>> Shear("caption", max_words=2)({"caption": "a red bus."})
    {'caption': 'a red'}
    """

    columns: tuple[str, ...] | str | None = None
    rule: str = field(default="sentence", kw_only=True)
    reference_column: str = field(default=schema.CAPTION, kw_only=True)
    max_words: int | None = field(default=None, kw_only=True)
    max_tokens: int | None = field(default=None, kw_only=True)
    tokenizer: Any = field(default=None, kw_only=True)
    trim_tail: bool = field(default=False, kw_only=True)
    language: str = field(default="en", kw_only=True)
    # In the state, because `Hasher.hash` of an importable class does not see its code.
    code_version: int = field(default=CODE_VERSION, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.rule, self.max_words, self.max_tokens, self.tokenizer)
        if self.columns is not None:
            columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
            object.__setattr__(self, "columns", columns)

    def __getstate__(self) -> dict[str, Any]:
        """The settings, and for the hash by which `datasets` caches, the version of what finds sentences."""
        state = dict(self.__dict__)
        return {**state, _SENTENCEX: installed_version(_SENTENCEX)} if self.rule == "sentence" else state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != _SENTENCEX})

    @property
    def stops_at_sentence(self) -> bool:
        """Whether the result depends on the first sentence alone, so that a decoder may stop behind it."""
        return self.rule == "sentence"

    def one(self, text: str | None, reference: str | None = None) -> str | None:
        """Shear one caption with these settings.

        Args:
            text: The caption; None stays None.
            reference: The raw caption, for the rule ``"raw"``; None or a blank one leaves the length as it is.

        Returns:
            The sheared caption.

        >>> Shear(rule="raw").one("a red bus on a road", "bus stop")
        'a red'
        """
        return self._bound()(text, reference)

    def describe(self) -> dict[str, Any]:
        """Give the settings that shape the result, for a data set's card.

        >>> Shear(max_words=12).describe()["max_words"]
        12
        """
        settings: dict[str, Any] = {"rule": self.rule, "version": self.code_version}
        if self.rule == "sentence":
            settings |= {"language": self.language, _SENTENCEX: installed_version(_SENTENCEX)}
        if self.rule == "raw":
            settings["reference_column"] = self.reference_column
        if self.max_words is not None:
            settings["max_words"] = self.max_words
        if self.max_tokens is not None:
            name = self.tokenizer if isinstance(self.tokenizer, str) else getattr(self.tokenizer, "name_or_path", "")
            settings |= {"max_tokens": self.max_tokens, "tokenizer": name or type(self.tokenizer).__name__}
        if self.trim_tail:
            settings["trim_tail"] = True
        return settings

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Shear a batch (a mapping of lists, lists come back) or one example (scalars come back).

        Raises:
            ColumnError: A column to shear is missing, or no column is a captioner's.
        """
        one = self._bound()
        sheared: dict[str, Any] = {}
        for column in self._columns(list(rows.keys())):
            texts = rows[column]
            references = rows[self.reference_column] if self.rule == "raw" else None
            if texts is None or isinstance(texts, str):
                sheared[column] = one(texts, references)
            elif references is None:
                sheared[column] = [one(text, None) for text in texts]
            else:
                sheared[column] = [one(text, reference) for text, reference in zip(texts, references, strict=True)]
        return sheared

    def _columns(self, present: list[str]) -> list[str]:
        wanted = schema.caption_columns(present) if self.columns is None else list(self.columns)
        if not wanted:
            raise ColumnError(
                f"{schema.CAPTION_PREFIX}*", present, "caption the pictures first, or name the columns to shear"
            )
        for column in [*wanted, self.reference_column] if self.rule == "raw" else wanted:
            if column not in present:
                todo = "pass reference_column=" if column == self.reference_column else "pass the columns to shear"
                raise ColumnError(column, present, todo)
        return wanted

    def _bound(self) -> Callable[[str | None, str | None], str | None]:
        """`shear` with these settings, checked once."""
        rule, limits = (
            self.rule,
            (self.max_words, self.max_tokens, _loaded(self.tokenizer), self.trim_tail, self.language),
        )

        def one(text: str | None, reference: str | None) -> str | None:
            return None if text is None else _shear(text, rule, reference, *limits)

        return one


def _check(rule: str, max_words: int | None, max_tokens: int | None, tokenizer: Any) -> None:
    if rule not in RULES:
        raise UnknownNameError("shearing rule", str(rule), RULES)
    for name, limit in (("max_words", max_words), ("max_tokens", max_tokens)):
        if limit is not None and limit < 1:
            raise UsageError(f"{name} must be at least 1, not {limit}")
    if max_tokens is not None and tokenizer is None:
        raise UsageError("max_tokens counts the tokens of a tokenizer: pass tokenizer=, an object or a name")


def _shear(
    text: str,
    rule: str,
    reference: str | None,
    max_words: int | None,
    max_tokens: int | None,
    tokenizer: Any,
    trim_tail: bool,
    language: str,
) -> str:
    if not isinstance(text, str):
        raise UsageError(f"a caption to shear must be a string or None, not {type(text).__name__}")
    n_words = len(reference.split()) if rule == "raw" and reference is not None else 0
    if n_words:
        max_words = n_words if max_words is None else min(max_words, n_words)
    # A cut can leave a text that the rule would cut again ("... at St." when words are limited). Cutting until nothing
    # changes makes the result a fixed point; each round is shorter than the one before, so it ends.
    while True:
        if rule == "sentence":
            ruled = first_sentence(text, language)
        else:
            ruled = text.split(".")[0].strip() if rule == "seed" else tidy(text)
        cut = ruled if max_words is None else _cut_words(ruled, max_words)
        if max_tokens is not None:
            cut = _cut_tokens(cut, max_tokens, tokenizer)
        if trim_tail and cut != ruled:
            cut = _without_dangling(cut)
        if cut == text:
            return cut
        text = cut


def _cut_words(text: str, max_words: int) -> str:
    end = 0
    for count, word in enumerate(_WORD.finditer(text)):
        if count == max_words:
            return text[:end]
        end = word.end()
    return text


def _cut_tokens(text: str, max_tokens: int, tokenizer: Any) -> str:
    """The longest run of whole words that fits; of a first word that does not fit, the longest part."""

    def fits(end: int) -> bool:
        return len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) <= max_tokens

    if fits(len(text)):
        return text
    ends = [0, *(word.end() for word in _WORD.finditer(text))]
    end = _last_fitting(ends, fits)
    return text[: end or _last_fitting(range(ends[1] + 1), fits)]


def _last_fitting(ends: Any, fits: Callable[[int], bool]) -> int:
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(ends[middle]) else (low, middle - 1)
    return int(ends[low])


def _without_dangling(text: str) -> str:
    trimmed = text
    while True:
        shorter = trimmed.rstrip(_DANGLING_MARKS + " ")
        head, _, last = shorter.rpartition(" ")
        if last.lower() in _DANGLING:
            shorter = head.rstrip()
        if shorter == trimmed:
            return trimmed or text
        trimmed = shorter


def _loaded(tokenizer: Any) -> Any:
    return _tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer


@functools.lru_cache(maxsize=8)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers and what it reads files with have errors of their own
        shown = label(name)
        raise CheckpointError(f"cannot load the tokenizer {shown}: {reason(error, name, shown)}") from error
