"""The templates of cards: Jinja files in ``cards/``, one for each data set and a default that they build upon.

A template may begin with YAML between lines of ``---``: what it says about its data set goes into the card's metadata.
The rest is Jinja. A template of your own may build upon one of these, too: ``{% extends "default.md" %}``, and blocks
in place of the default's.

What a template may print: ``title``, ``description``, ``source``, ``license``, ``repo_id``, ``version``, ``shear``,
``plan``, ``commands``; ``configs`` (see `ConfigFacts`), of them ``captioned``, and their ``names``; ``samples`` (see
`Sample`);
``split``, the first one's name; ``overview``, the path of the plot of all configs; ``sample_size``, ``has_pictures``,
``cut``; and ``settings(captioner)`` and ``variant(captioner)``, texts about a captioner. Filters: ``clip(limit)``,
``caption(limit)``, ``number(digits)``, ``percent``, ``code``, ``command``, ``lines``, ``model(captioner)``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_mllm_aug.card_samples import breakable
from hf_mllm_aug.card_settings import hub_id
from hf_mllm_aug.errors import UnknownNameError, UsageError
from hf_mllm_aug.safe_text import inert, plain, scrub

DEFAULT = "default"

_FRONT_MATTER = re.compile(r"---\n(?P<yaml>.*?)^---\n", re.DOTALL | re.MULTILINE)
_COUNTED = ("configs", "dataset_info", "size_categories")


@dataclass(frozen=True)
class CardTemplate:
    """A template.

    Args:
        name: Its file's name, for messages.
        text: The Jinja part.
        metadata: What its YAML says: fields of the card.
    """

    name: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def render(self, values: Mapping[str, Any]) -> str:
        """The body of a card.

        Every value is made inert where it is printed (see `safe_text`), whatever the template's author forgets.

        Args:
            values: What the template may print, by name.

        Raises:
            UsageError: The template is broken; with its line where that is known.
        """
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from markupsafe import Markup

        def safe(value: Any) -> Any:
            if isinstance(value, (jinja2.Undefined, Markup)):  # an undefined value raises when it is printed
                return value
            return "" if value is None else inert(value)

        environment = ImmutableSandboxedEnvironment(
            loader=jinja2.FunctionLoader(lambda name: open_template(name.removesuffix(".md")).text),
            finalize=safe,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        # For the code in a card, where character references would be shown as they are written.
        environment.filters["code"] = lambda value: Markup(re.sub(r"[^A-Za-z0-9._+/-]", "", str(value)))
        environment.filters["command"] = lambda words: Markup(shell_line(words))
        environment.filters["clip"] = lambda value, limit: None if value is None else plain(scrub(str(value)), limit)
        environment.filters["caption"] = lambda text, limit: plain(breakable(plain(scrub(str(text)))), limit)
        environment.filters["number"] = lambda value, digits=0: "" if value is None else f"{value:,.{digits}f}"
        environment.filters["percent"] = lambda share: "" if share is None else f"{share:.1%}"
        environment.filters["lines"] = lambda text: Markup("\n".join(inert_lines(str(text))))
        environment.filters["model"] = lambda name, captioner: Markup(model_link(str(name), captioner))
        try:
            return environment.from_string(self.text).render(**values)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            raise UsageError(f"card template {self.name}{f', line {line}' if line else ''}: {error}") from error


def open_template(template: str | Path | None = None) -> CardTemplate:
    """Read a template.

    Args:
        template: A name in ``cards/``, a path, or None for ``default``.

    Raises:
        UnknownNameError: There is no template of that name.
        UsageError: There is no such file, or its YAML is broken or sets what is counted.

    >>> open_template("cc3m").metadata["license_name"]
    'conceptual-captions'
    """
    path = template_path(template)
    text = path.read_text(encoding="utf-8")
    front = _FRONT_MATTER.match(text)
    if front is None:
        return CardTemplate(path.name, text)
    try:
        metadata = yaml.safe_load(front["yaml"])
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UsageError(f"card template {path.name}: its YAML is broken: {problem}.") from error
    if not isinstance(metadata, dict):
        raise UsageError(f"card template {path.name}: its YAML should be fields and values, such as license: other.")
    if counted := [name for name in _COUNTED if name in metadata]:
        raise UsageError(f"card template {path.name}: {counted[0]} is counted, and is not a template's to say.")
    # Lines keep their numbers, which messages name.
    return CardTemplate(path.name, "{#" + "\n" * front[0].count("\n") + "#}" + text[front.end() :], metadata)


def template_path(template: str | Path | None = None) -> Path:
    """The file of a card template.

    Args:
        template: A name in ``cards/``, a path, or None for ``default``.

    Raises:
        UnknownNameError: There is none.

    >>> template_path("default").name
    'default.md'
    """
    if isinstance(template, Path) or (template and template.endswith((".md", ".jinja", ".j2"))):
        if Path(template).is_file():
            return Path(template)
        raise UsageError(f"no such card template: {template}.")
    package = Path(__file__).parent
    # In an installed package the templates lie inside it, in a checkout beside it.
    homes = [home for home in (package / "_cards", package.parent / "cards") if home.is_dir()]
    known = {file.stem: file for home in reversed(homes) for file in home.glob("*.md")}
    name = template or DEFAULT
    if name not in known:
        raise UnknownNameError("card template", name, known, "Or pass the path of a Jinja file.")
    return known[name]


def inert_lines(text: str) -> Iterator[str]:
    r"""The lines of a text that keep their indentation, each made inert; empty ones would end a block of HTML.

    >>> list(inert_lines("@misc{x,\n\n  title = {<b>}\n}"))
    ['&#64;misc&#123;x,', '  title &#61; &#123;&#60;b&#62;&#125;', '&#125;']
    """
    for line in text.splitlines():
        if safe := inert(line):
            yield " " * min(len(line) - len(line.lstrip(" ")), 20) + safe


def model_link(name: str, captioner: Mapping[str, Any]) -> str:
    """A model's name, as a link to the Hub where it has an address there; HTML.

    >>> model_link("a/b", {"model": "a/b"}), model_link("a/b", {"model": "a/b", "digest": "01ab"})
    ('<a href="https://huggingface.co/a/b">a&#47;b</a>', 'a&#47;b')
    """
    return (
        f'<a href="https://huggingface.co/{found}">{inert(name)}</a>' if (found := hub_id(captioner)) else inert(name)
    )


def shell_line(words: Iterable[str]) -> str:
    """A command as one line for the code in a card: quoted for the shell, without secrets and local paths.

    Args:
        words: The program and its arguments. What could end a block of code or begin a mark is left out of them.

    >>> shell_line(["uv", "run", "cc3m.py", "/home/ann/my list.tsv", "--rule", "<!-- `raw`"])
    "uv run cc3m.py 'my list.tsv' --rule '!-- raw'"
    """
    clean = (plain(scrub(str(word))).replace("…/", "") for word in words)
    return shlex.join(re.sub(r"[`<>]", "", word) for word in clean)
