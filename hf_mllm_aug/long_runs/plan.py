"""The plan of a run: all that its results depend on, kept as ``plan.json`` in its folder.

A folder is worked on by one plan. A later run may add captioners to it and may leave some out; whatever else differs
from what shards were finished by is refused, setting by setting. Versions of packages are noted, and a difference in
them is a warning only. Nothing in a plan says where files lie, so that a run begun on one machine goes on on another.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import hf_mllm_aug
from hf_mllm_aug import schema
from hf_mllm_aug.captioners import identity
from hf_mllm_aug.errors import FormatError, UsageError

if TYPE_CHECKING:
    from hf_mllm_aug import Augment, Captioner, FetchImages
    from hf_mllm_aug.long_runs.source import Source
    from hf_mllm_aug.long_runs.store import Store

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "plan.json"
FETCH = "fetch"
_RESERVED = (FETCH, "claims", "ray")
_TRIES = 5

# Settings of FetchImages on which its pictures depend; others may change from one day to the next.
_FETCH_SETTINGS = (
    "url_column",
    "image_column",
    "status_column",
    "reason_column",
    "max_bytes",
    "max_pixels",
    "max_aspect",
    "max_redirects",
    "opt_out",
)
# Of a captioner's description: what is no cause of its captions, or stands among the versions.
_SAID_ELSEWHERE = ("package", "variants")


@dataclass(frozen=True)
class Plan:
    """What a run does, as values that JSON can hold.

    Args:
        source: The kind of source, its columns, its number of rows (None where nobody knows yet) and its fingerprint.
        shard_size: Rows a shard; None where the source's own shards are taken.
        shards: How many; None where nobody knows yet.
        shear: How captions are cut; None for not at all.
        keep_unsheared: Whether the texts before shearing were generated in full.
        fetch: How pictures are fetched; None for not at all.
        captioners: By slug, ``settings`` (all that captions depend on) and ``description``.
        versions: Of the packages.
    """

    source: dict[str, Any]
    shard_size: int | None
    shards: int | None
    shear: dict[str, Any] | None
    keep_unsheared: bool
    fetch: dict[str, Any] | None
    captioners: dict[str, dict[str, Any]]
    versions: dict[str, str]
    format: int = FORMAT

    def summary(self) -> str:
        """The rows, shards and versions in one line, for the data set's card."""
        rows = "rows" if self.source.get("rows") is None else f"{self.source['rows']:,} rows"
        shards = "shards" if self.shards is None else f"{self.shards:,} shard{'' if self.shards == 1 else 's'}"
        shards += " of the source's own" if self.shard_size is None else f" of {self.shard_size:,}"
        known = self.source.get("fingerprint") or self.source.get("commit")
        origin = f", source fingerprint {str(known)[:16]}" if known else ""
        return f"{rows} in {shards}{origin}; " + ", ".join(f"{name} {number}" for name, number in self.versions.items())

    def digest(self, stage: str) -> str:
        """A digest of all that a stage's shards depend on.

        Args:
            stage: ``"fetch"``, or the slug of a captioner.
        """
        # How many rows a stream has is not known when its first shards are written.
        source = {name: value for name, value in self.source.items() if name != "rows"}
        if source["kind"] != "stream":
            source["rows"] = self.source["rows"]
        parts: dict[str, Any] = {"format": self.format, "source": source, "shard_size": self.shard_size}
        parts["fetch"] = self.fetch
        if stage != FETCH:
            parts |= {"shear": self.shear, "keep_unsheared": self.keep_unsheared}
            parts["captioner"] = self.captioners[stage]["settings"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def make_plan(source: Source, augment: Augment | None, fetch: FetchImages | None) -> Plan:
    """The plan of a run.

    Raises:
        UsageError: A captioner bears the name of a folder that a run needs for itself.
    """
    members = augment.members if augment is not None else ()
    for member in members:
        if schema.slug(member.label) in _RESERVED:
            raise UsageError(f"a captioner of a long run cannot be called {member.label!r}. To do: give it a name=")
    shear = augment.shear.describe() if augment is not None and augment.shear is not None else None
    return Plan(
        source={
            "kind": source.kind,
            "columns": sorted(source.features),
            "rows": source.rows,
            "fingerprint": source.fingerprint(),
        },
        shard_size=source.shard_size,
        shards=source.shards,
        shear=None if shear is None else {name: value for name, value in shear.items() if name != "sentencex"},
        keep_unsheared=augment is not None and augment.keep_unsheared,
        fetch=None if fetch is None else _plain({name: fetch.settings()[name] for name in _FETCH_SETTINGS}),
        captioners={schema.slug(member.label): _captioner(member) for member in members},
        versions={
            "hf-mllm-aug": hf_mllm_aug.__version__,
            **{name: version(name) for name in ("torch", "transformers", "datasets", "sentencex")},
        },
    )


def _captioner(captioner: Captioner) -> dict[str, Any]:
    described = captioner.describe()
    settings = {
        **{name: value for name, value in identity.identity(captioner).items() if name != "sentencex"},
        "decoding": described["decoding"],
        "engine": captioner.engine,
        "dtype": captioner.dtype,
        "image_column": captioner.image_column,
        "key_column": captioner.key_column,
    }
    kept = {name: value for name, value in described.items() if name not in _SAID_ELSEWHERE}
    return {"settings": _plain(settings), "description": _plain(kept)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(dict(values), sort_keys=True, default=str))
    return found


def read_plan(store: Store) -> Plan | None:
    """The plan in a folder; None if there is none.

    Raises:
        FormatError: It cannot be read, or is of a later version of this package.
    """
    content = store.read(FILE)
    if content is None:
        return None
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise FormatError(
                f"{store}/{FILE} is of format {values['format']}, and this version of hf-mllm-aug reads {FORMAT}. "
                "Use the version that wrote it, or another folder."
            )
        return Plan(**values)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{store}/{FILE} is no plan of a run ({type(error).__name__}). Use another folder."
        ) from error


def settle(store: Store, plan: Plan, *, write: bool = True) -> Plan:
    """Put a plan into its folder, together with what is there already.

    Args:
        store: The folder.
        plan: The plan.
        write: Whether to; else it is only asked whether it fits.

    Returns:
        The plan of the folder.

    Raises:
        UsageError: The folder is worked on by another plan; with the settings that differ.
    """
    for _ in range(_TRIES):
        found = read_plan(store)
        merged = plan if found is None else _merged(store, found, plan)
        if merged == found or not write:
            return merged
        # Another process may add its captioner at the same moment: what it wrote is read, and asked whether it fits.
        store.write(FILE, json.dumps(vars(merged), indent=1, default=str).encode() + b"\n")
    return merged


def _merged(store: Store, found: Plan, plan: Plan) -> Plan:
    # What nothing was finished by binds nobody: a setting that was mistaken may be mended.
    begun = {stage for stage in (FETCH, *found.captioners) if any(map(_is_shard, store.names(stage)))}
    differences = _compare(found, plan, begun)
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise UsageError(
            f"{store} holds a run with other settings: {shown}. To do: take the same settings, or another folder."
        )
    captioners = {**found.captioners, **plan.captioners, **{k: found.captioners[k] for k in begun - {FETCH}}}
    if not begun:
        return replace(plan, captioners=captioners)
    for name in sorted(set(found.versions) & set(plan.versions)):
        if found.versions[name] != plan.versions[name]:
            logger.warning(
                "the run was begun with %s %s and goes on with %s", name, found.versions[name], plan.versions[name]
            )
    known = plan.source["rows"] is not None
    cut = found if begun - {FETCH} or not plan.captioners else plan
    return replace(
        found,
        source=plan.source if known else found.source,
        shards=plan.shards if known else found.shards,
        shear=cut.shear,
        keep_unsheared=cut.keep_unsheared,
        captioners=captioners,
    )


def _is_shard(name: str) -> bool:
    return name.endswith(".parquet")


def _compare(found: Plan, plan: Plan, begun: Collection[str]) -> list[str]:
    """How a plan differs from that of the folder, in words; what only one of them knows yet is no difference."""
    source, before = dict(plan.source), dict(found.source)
    if None in (source["rows"], before["rows"]):
        source["rows"] = before["rows"] = None
    pairs: list[tuple[str, Any, Any]] = []
    if begun:
        pairs += [
            ("source", before, source),
            ("shard_size", found.shard_size, plan.shard_size),
            ("fetch", found.fetch, plan.fetch),
        ]
    if set(begun) - {FETCH} and plan.captioners:
        pairs += [("shear", found.shear, plan.shear), ("keep_unsheared", found.keep_unsheared, plan.keep_unsheared)]
    pairs += [
        (slug, found.captioners[slug]["settings"], captioner["settings"])
        for slug, captioner in plan.captioners.items()
        if slug in begun
    ]
    return [difference for name, old, new in pairs for difference in _differences(name, old, new)]


def _differences(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for inner in sorted(old.keys() | new.keys())
            for difference in _differences(f"{name}.{inner}", old.get(inner), new.get(inner))
        ]
    return [] if old == new else [f"{name}: {_shown(old)} in the folder, {_shown(new)} now"]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
