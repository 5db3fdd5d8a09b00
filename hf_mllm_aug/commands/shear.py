"""``hf-mllm-aug shear``: another rule for the captions of a staged data set, without captioning again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption, Images, OutOption, RuleOption
from hf_mllm_aug.commands.outcomes import show_staged
from hf_mllm_aug.commands.terminal import say
from hf_mllm_aug.errors import FormatError

if TYPE_CHECKING:
    from hf_mllm_aug import Shear

_NOTHING_LEFT = "nothing was left after shearing"


def shear(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A staged data set, such as `caption` writes.")],
    out: OutOption,
    rule: RuleOption = "sentence",
    debug: DebugOption = False,
) -> None:
    """Shear a staged data set's captions by another rule.

    The result is staged in another folder. What the captioners generated is sheared where it was kept
    (`caption --keep-unsheared`), else the captions.
    """
    from datasets import Features, Value

    from hf_mllm_aug import Shear, build_card, save_configs, to_configs
    from hf_mllm_aug.card import inputs_of
    from hf_mllm_aug.card_merge import merge_cards
    from hf_mllm_aug.dataset_job import this_command
    from hf_mllm_aug.staged import check_free, keep_record, open_staged

    check_free(out)
    staged = open_staged(folder)
    rule_of = Shear(rule=rule)
    with quiet.progress(wanted=False):
        splits = staged.open()
        features = next(iter(splits.values())).features
        columns = schema.caption_columns(features)
        if not columns:
            raise FormatError(f"{folder} has no captions to shear, only raw ones. Make some with: hf-mllm-aug caption")
        origins = {column: _origin(column, features) for column in columns}
        errors = {_error(column): Value("string") for column in columns}
        splits = splits.map(
            _shear_rows,
            batched=True,
            fn_kwargs={"origins": origins, "rule": rule_of},
            features=Features({**features, **errors}),
        )
        captioners = staged.captioners(columns)
        images: Images = "embed" if schema.IMAGE in features else "none"
        configs = to_configs(splits, captioners=captioners, images=images)
        inputs = inputs_of(staged.card)
        commands = [*inputs.pop("command"), this_command()]
        new = build_card(configs, captioners=captioners, shear=rule_of, command=commands, **inputs)
        card = merge_cards(staged.card, new)
        keep_record(card, {**staged.record, "shear": rule_of.describe()})
        save_configs(configs, out, card=card)
    for column, origin in origins.items():
        note = "" if origin != column else " (what was generated was not kept; the caption itself was sheared again)"
        say(f"{column}: from {origin}, by the rule {rule}{note}")
    show_staged(out, {name: sum(map(len, config.values())) for name, config in configs.items()})


def _origin(column: str, present: Any) -> str:
    generated = schema.GENERATED_PREFIX + column.removeprefix(schema.CAPTION_PREFIX)
    return generated if generated in present else column


def _error(column: str) -> str:
    return schema.ERROR_PREFIX + column.removeprefix(schema.CAPTION_PREFIX)


def _shear_rows(
    batch: dict[str, list[str | None]], origins: dict[str, str], rule: Shear
) -> dict[str, list[str | None]]:
    """Shear each caption column from its origin; exactly one of caption and reason stays null, as `Augment` has it."""
    result: dict[str, list[str | None]] = {}
    for column, origin in origins.items():
        texts, raw = batch[origin], batch[rule.reference_column]
        sheared = [rule.one(text, reference) or None for text, reference in zip(texts, raw, strict=True)]
        before = batch[_error(column)] if _error(column) in batch else [None] * len(texts)
        result[column] = sheared
        result[_error(column)] = [
            None if caption is not None else (reason if text is None else _NOTHING_LEFT)
            for caption, text, reason in zip(sheared, texts, before, strict=True)
        ]
    return result
