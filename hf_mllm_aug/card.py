"""The card of a data set: YAML that the Hub acts on, a page that people read from a template in ``cards/``, and plots.

Every value that a template shows is made inert on its way in (see `safe_text`), so a caption cannot become markup, a
second YAML block or a template of its own, whatever the template's author forgets. What this library writes stands
between marks; a later release replaces that and leaves alone what people wrote (see `card_merge`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData

from hf_mllm_aug import __version__, schema
from hf_mllm_aug.card_facts import ConfigFacts, collect, raw_counts
from hf_mllm_aug.card_figures import boxes_figure, lengths_figure
from hf_mllm_aug.card_marks import REPO_PLACEHOLDER, remember, written
from hf_mllm_aug.card_metadata import card_metadata, with_template
from hf_mllm_aug.card_samples import samples
from hf_mllm_aug.card_settings import settings_text, shear_text, variant_text
from hf_mllm_aug.card_statistics import SAMPLE
from hf_mllm_aug.card_template import open_template
from hf_mllm_aug.configs import check_config_names
from hf_mllm_aug.picture_files import PictureRoot
from hf_mllm_aug.safe_text import scrub, scrub_values

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FIGURES = "figures/"
"""Where the files of a card lie in a repository."""

_OVERVIEW = f"{FIGURES}{schema.ALL_CONFIG}-lengths.svg"


class Card(DatasetCard):
    """A card, and the files that it shows.

    Args:
        content: The README.
        files: What goes into the repository beside it: paths below `FIGURES`, those of one config beginning with the
            config's name and a hyphen, and the contents. `save_configs` writes them.
    """

    def __init__(
        self, content: str, files: Mapping[str, bytes] | None = None, *, ignore_metadata_errors: bool = True
    ) -> None:
        super().__init__(content, ignore_metadata_errors=ignore_metadata_errors)
        self.files: dict[str, bytes] = dict(files or {})


def build_card(
    configs: Mapping[str, Dataset | DatasetDict | Mapping[str, Dataset]],
    *,
    captioners: Sequence[object] | object = (),
    shear: object = None,
    template: str | Path | None = None,
    repo_id: str | None = None,
    pretty_name: str | None = None,
    description: str | None = None,
    source: str | None = None,
    license: str | None = None,  # noqa: A002 (the card's own word)
    languages: Sequence[str] = ("en",),
    tags: Sequence[str] = (),
    command: Sequence[str] | Sequence[Sequence[str]] = (),
    plan: str | None = None,
    sample_rows: int = 8,
    picture_root: PictureRoot | None = None,
) -> Card:
    """Build the card of a data set from its configs.

    Every caption is read once: some 200,000 of them a second on one core.

    Args:
        configs: The configs; see `to_configs`.
        captioners: `Captioner` objects, their ``describe()``, or names: model, revision, prompt and decoding of each
            are shown beside the config of its name.
        shear: The `Shear` that was applied, its ``describe()``, or a sentence about it.
        template: The name of a template in ``cards/`` (``"cc3m"``, ``"cc12m"``, ``"yfcc15m"``), or the path of a Jinja
            file of your own; None is ``default``. A template may bring metadata of its data set, see `card_template`:
            its lists are added to, its other fields hold unless they are given here.
        repo_id: The repository, for the code that loads it. `push_to_hub` fills it in where it is not known yet.
        pretty_name: The title.
        description: A paragraph about this data set.
        source: Where pictures and raw captions come from: a Hub id, or words.
        license: The licence of the captions, as the Hub abbreviates it: ``"cc-by-4.0"``. One that is not on the Hub's
            list becomes ``other`` with its name.
        languages: ISO 639 codes of the captions' languages.
        tags: Further tags.
        command: The words of the command that makes this data set again, or several commands; local paths in it are
            cut to their names.
        plan: What the run was, in a line: its rows, shards, source and versions of packages.
        sample_rows: How many rows are shown. Where `all` has pictures, they are shown with them, made small.
        picture_root: Whose files may be opened for that; as for `save_configs`.

    Returns:
        The card, with its plots and pictures as ``card.files``. ``str(card)`` is the README.

    Raises:
        UnknownNameError: There is no such template.
        UsageError: The template is broken, or the configs' names are.

    Source: arXiv 2311.18765 is what the card cites.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"key": ["a"], "url": [None], "caption": ["<b>cat</b> | {{ dog }}"]})
    >>> card = build_card({"raw": rows}, pretty_name="Cats", license="cc-by-4.0")
    >>> card.data.configs[0]["default"], card.data.license, "<b>cat" in card.text, "{{" in card.text
    (True, 'cc-by-4.0', False, False)
    """
    from datasets import Dataset

    named: dict[str, dict[str, Any]] = {
        name: {"train": rows} if isinstance(rows, Dataset) else dict(rows) for name, rows in configs.items()
    }
    check_config_names(named)
    given = list(captioners) if isinstance(captioners, (list, tuple)) else [captioners]
    facts = collect(named, given)
    files = _plots(facts, sheared=shear is not None)
    shown = samples(named, sample_rows, picture_root)
    files |= {sample.figure: sample.picture for sample in shown if sample.picture is not None}
    base = open_template(template)
    title = pretty_name or base.metadata.get("pretty_name")
    title = str(title or (repo_id.split("/")[-1] if repo_id else "Image captions by multimodal LLMs"))
    languages, tags = ([one] if isinstance(one, str) else list(one) for one in (languages, tags))
    command = shlex.split(command) if isinstance(command, str) else command
    commands = [list(command)] if command and isinstance(command[0], str) else [list(words) for words in command]
    own = card_metadata(named, facts, title=title, source=source, license=license, languages=languages, tags=tags)
    metadata = scrub_values(with_template(own, base.metadata))
    values = {
        "title": title,
        "description": description,
        "source": source,
        "license": license,
        "repo_id": repo_id or REPO_PLACEHOLDER,
        "configs": facts,
        "names": [fact.name for fact in facts],
        "captioned": [fact for fact in facts if fact.is_captioned],
        "has_pictures": any(sample.figure for sample in shown),
        "overview": _OVERVIEW if _OVERVIEW in files else "",
        "sample_size": SAMPLE,
        "shear": shear_text(shear),
        "split": next(iter(next(iter(named.values())))),
        "samples": shown,
        "cut": any(tail for sample in shown for _, _, tail in sample.captions),
        "commands": commands,
        "plan": plan,
        "version": __version__,
        "settings": settings_text,
        "variant": variant_text,
    }
    body = scrub(base.render(values))
    data = DatasetCardData(**{key: value for key, value in metadata.items() if value is not None})
    inputs = {
        "template": _shipped(template),
        "pretty_name": pretty_name,
        "description": description,
        "source": source,
        "license": license,
        "plan": plan,
        "commands": commands,
    }
    card = Card(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n", files)
    return remember(card, scrub_values(inputs))


def inputs_of(card: DatasetCard) -> dict[str, Any]:
    """What a card was built from that cannot be read from its configs, as arguments for `build_card`.

    Args:
        card: A card that `build_card` made, perhaps changed since.
    """
    said = written(card, "inputs") or {}
    names = ("template", "pretty_name", "description", "source", "license", "plan")
    texts = {name: said[name] for name in names if isinstance(said.get(name), str)}
    commands = said.get("commands")
    return {**texts, "command": [list(map(str, words)) for words in commands if words] if commands else []}


def _shipped(template: str | Path | None) -> str | None:
    """A template's name, if every installation has it."""
    return template if isinstance(template, str) and "." not in template else None


def _plots(facts: Sequence[ConfigFacts], *, sheared: bool) -> dict[str, bytes]:
    """The plots of a card, by their paths; the facts learn theirs."""
    files = {}
    raw = raw_counts(facts)
    for fact in facts:
        if fact.is_captioned and fact.counts.texts:
            fact.figure = f"{FIGURES}{fact.name}-lengths.svg"
            now = "after shearing" if sheared or fact.generated else "captions"
            series = {"raw": raw, "before shearing": fact.generated, now: fact.counts}
            files[fact.figure] = lengths_figure(fact.name, {k: counts for k, counts in series.items() if counts})
    shown = {fact.name: fact.counts for fact in facts if fact.name != schema.ALL_CONFIG and fact.counts.texts}
    if shown and any(fact.name == schema.ALL_CONFIG for fact in facts):
        files[_OVERVIEW] = boxes_figure(shown)
    return files
