"""The command line of the scripts in ``dataset_scripts/``: a whole data set in, its augmented form on the Hub out.

A script is one file that says what is particular to its data set and calls `main`. The options are argparse's: those
of all scripts and a script's own make one parser, which a Typer function, whose options are its parameters, is not.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

from hf_mllm_aug import __version__
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.failures import WRONG_USAGE, exit_code, explain
from hf_mllm_aug.commands.options import chosen_captioners, chosen_rule, named
from hf_mllm_aug.commands.outcomes import show_outcomes, show_resumption, show_speed
from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.dataset_job import (
    Load,
    Selection,
    WorkFolder,
    check_repository,
    default_work_folder,
    lacks_pictures,
    public_name,
    read_rows,
    stage,
)
from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from hf_mllm_aug import Augment, FetchImages
    from hf_mllm_aug.long_runs import LongRun

CAPTIONER = "llava-1.5"
"""The captioner where none is named: of the paper's four the one that is published ready to use and under terms that
allow most."""

# What decides the data set, and so stands in the command that its card shows.
_DECISIVE = ("captioner", "preset", "rule", "keep_unsheared", "split", "max_samples", "shuffle", "seed", "images")


@dataclass(frozen=True)
class DataSetScript:
    """What is particular to a data set.

    Args:
        name: What it is called.
        load: What opens its forms.
        card: The template of its card.
        about: The script's docstring, shown by ``--help``.
        file: The script's name, for the command that the card shows.
        options: Options of ``load`` that its script has, by name, each with its help.
    """

    name: str
    load: Load
    card: str
    about: str
    file: str
    options: Mapping[str, str] = field(default_factory=dict)


def main(script: DataSetScript, words: Sequence[str] | None = None) -> NoReturn:
    """Run a script and exit: with 0, 1 when the work failed, 2 for wrong usage, 130 when interrupted.

    Args:
        script: What is particular to its data set.
        words: The arguments; by default the process's own.
    """
    words = sys.argv[1:] if words is None else list(words)
    debug = "--debug" in words
    quiet.set_up(debug)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    code = 0
    try:
        run_script(script, words)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - where failures become advice, as in `cli.main`
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {explain(error)}\n")
        code = exit_code(error)
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"error: {message}. See: {self.prog} --help\n")


def _parser(script: DataSetScript) -> argparse.ArgumentParser:
    parser = _Parser(prog=script.file, description=script.about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", metavar="INPUT", help=f"any form of {script.name}: a Hub id, a list, tars, a folder, a quoted pattern")
    add("output", metavar="OUTPUT", help="the repository to publish to, OWNER/NAME; made if it is not there")
    add("--version", action="version", version=f"hf-mllm-aug {__version__}")
    add("--debug", action="store_true", help="show tracebacks and the libraries' own messages")

    rows = parser.add_argument_group("rows")
    add = rows.add_argument
    add("--split", default="train", help="the split to read (default: %(default)s)")
    add("--max-samples", type=_positive, metavar="N", help="take no more rows than this")
    add("--shuffle", action="store_true", help="put the rows in a random order before they are taken")
    add("--seed", type=int, default=42, help="of --shuffle (default: %(default)s)")
    add("--streaming", action="store_true", help="caption rows as they are read, without a copy in datasets' cache")
    add("--form", help="what INPUT is, where that is not recognised; a wrong name lists those that there are")
    add("--image-root", metavar="DIR", help="the folder that the picture paths of a list start from")
    for name, text in script.options.items():
        add(_flag(name), help=text)

    fetching = parser.add_argument_group("pictures that are addresses")
    add = fetching.add_argument
    add(
        "--fetch",
        action=argparse.BooleanOptionalAction,
        help="fetch them (default: where there are addresses and no pictures)",
    )
    add("--concurrency", type=_positive, default=64, metavar="N", help="fetched at a time (default: %(default)s)")
    add("--allow-private", action="store_true", help="fetch from private and loopback addresses, too")

    captions = parser.add_argument_group("captions")
    add = captions.add_argument
    add(
        "--captioner",
        action="append",
        metavar="NAME[=CHECKPOINT]",
        help=f"see `hf-mllm-aug models`; repeat it for several (default: {CAPTIONER})",
    )
    add("--preset", choices=("default", "paper"), default="default", help="paper: asked as the paper's scripts did")
    add("--rule", choices=("sentence", "raw", "seed"), help="how captions are cut (default: sentence; paper: seed)")
    add("--keep-unsheared", action="store_true", help="keep the texts before shearing, too")
    add("--batch-size", type=_positive, metavar="N", help="pictures a model call (default: the captioner's own)")

    work = parser.add_argument_group("work")
    add = work.add_argument
    add("--work-dir", metavar="DIR", help="keeps what is done; a folder or an fsspec URL (default: OUTPUT's name.work)")
    add("--resume", action="store_true", help="go on with --work-dir where an earlier run ended, if one did")
    add("--retry-errors", action="store_true", help="with --resume: try again what failed")
    add("--shard-size", type=_positive, default=1024, metavar="N", help="rows kept at a time (default: %(default)s)")
    add(
        "--shard",
        type=_piece,
        metavar="i/n",
        help="work piece i of n, from 0; publish nothing",
    )

    release = parser.add_argument_group("release")
    add = release.add_argument
    add("--images", choices=("embed", "none"), default="none", help="embed: pictures travel in the config `all`")
    add("--private", action="store_true", help="make a new repository private")
    add("--create-pr", action="store_true", help="open a pull request instead of changing main")
    add("--dry-run", action="store_true", help="stage the release in --work-dir, and publish nothing")
    return parser


def parse(script: DataSetScript, words: Sequence[str]) -> argparse.Namespace:
    """Read a script's arguments.

    Raises:
        SystemExit: They are wrong, or ask for help; with what there is to say on stderr or stdout.
    """
    return _parser(script).parse_args(words)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _piece(text: str) -> str:
    from hf_mllm_aug.long_runs.long_run import parse_piece

    try:
        parse_piece(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run_script(script: DataSetScript, words: Sequence[str]) -> None:
    """Do what a script was asked to.

    Args:
        script: What is particular to its data set.
        words: The arguments.

    Raises:
        AugError: It cannot be done.
        SystemExit: The arguments are none that the script has.
    """
    options = parse(script, words)
    # Whatever can be refused is refused before the work, so that nothing is lost to it.
    work = WorkFolder(options.work_dir or default_work_folder(options.output))
    augment = _augment(options)
    if options.dry_run and options.shard:
        raise UsageError("--shard stages nothing, so there is nothing that --dry-run could stage: choose one")
    check_repository(options.output, publishes=not (options.dry_run or options.shard))
    # Of several processes that `accelerate launch` starts, one speaks for all; any may find work of the others there.
    first, alone = os.environ.get("RANK", "0") == "0", os.environ.get("WORLD_SIZE", "1") == "1"
    work.check(options.output, resume=options.resume or options.shard is not None or not alone)
    with quiet.progress(wanted=first):
        run = _run(script, options, augment, work)
        if first:
            size = count(run.source.rows, "row") if run.source.rows is not None else "rows"
            say(f"{size} of {public_name(options.input)}, by {', '.join(member.label for member in run.members)}")
            show_resumption(run)
        summary = run.work()
        if not first:
            return
        show_speed(summary)
        if options.shard is not None:
            done, total = run.finished()
            say(f"piece {options.shard} is done; {done:,} of {count(total or 0, 'shard')} are finished, in {run.store}")
            say("next, when all are: the same command with --resume in place of --shard, which publishes")
            return
        rows = run.rows(pictures=options.images == "embed" or not run.fetches)
    _show_fetched(rows)
    show_outcomes(rows, run.members)
    _release(script, options, augment, rows, run.job.plan.summary(), work)


def _augment(options: argparse.Namespace) -> Augment:
    from hf_mllm_aug import Augment, Shear
    from hf_mllm_aug.configs import check_config_names, config_name

    captioners = chosen_captioners(options.captioner or [CAPTIONER], options.preset, batch_size=options.batch_size)
    rule = chosen_rule(options.rule, options.preset)
    augment = Augment(captioners, shear=Shear(rule=rule), keep_unsheared=options.keep_unsheared)
    check_config_names([config_name(member.label) for member in augment.members])
    return augment


def _run(script: DataSetScript, options: argparse.Namespace, augment: Augment, work: WorkFolder) -> LongRun:
    """The work that is to be done; nothing is written yet."""
    from hf_mllm_aug.long_runs import LongRun

    rows = _rows(script, options)
    return LongRun(
        rows,
        list(augment.members),
        work.run,
        shear=augment.shear,
        keep_unsheared=augment.keep_unsheared,
        fetch=_fetch(options, rows),
        shard_size=options.shard_size,
        shard=options.shard,
        retry_errors=options.retry_errors,
    )


def _rows(script: DataSetScript, options: argparse.Namespace) -> Dataset | IterableDataset:
    selection = Selection(
        split=options.split,
        max_samples=options.max_samples,
        shuffle=options.shuffle,
        seed=options.seed,
        streaming=options.streaming,
    )
    own = ("form", "image_root", *script.options)
    given = {name: value for name in own if (value := getattr(options, name)) is not None}
    return read_rows(script.load, options.input, selection, given)


def _fetch(options: argparse.Namespace, rows: Dataset | IterableDataset) -> FetchImages | None:
    """What fetches the pictures; None where they are there.

    Raises:
        UsageError: They are neither there nor to be fetched.
    """
    from hf_mllm_aug import FetchImages

    lacking = lacks_pictures(rows)
    if lacking and options.fetch is False:
        raise UsageError("the rows have addresses and no pictures: leave out --no-fetch")
    if not (lacking if options.fetch is None else options.fetch):
        return None
    return FetchImages(concurrency=options.concurrency, allow_private=options.allow_private)


def _show_fetched(rows: Dataset) -> None:
    """Say how many pictures were fetched, and what became of the others, where any were asked for."""
    from hf_mllm_aug import FetchImages

    if FetchImages.status_column in rows.column_names:  # the sources' rows have no such column
        found = Counter(rows[FetchImages.status_column])
        say("fetched: " + ", ".join(f"{times:,} {status}" for status, times in found.most_common()))


def _release(
    script: DataSetScript, options: argparse.Namespace, augment: Augment, rows: Dataset, plan: str, work: WorkFolder
) -> None:
    """Stage what was captioned, and publish it unless that was not wanted."""
    from hf_mllm_aug import push_to_hub
    from hf_mllm_aug.loaders.recognise import is_hub_id

    folder = work.release(options.output)
    images: Literal["embed", "none"] = options.images
    with quiet.progress(wanted=False):
        configs = stage(
            rows,
            augment,
            folder,
            template=script.card,
            images=images,
            source=options.input if is_hub_id(options.input) else None,
            command=reproduction(script, options),
            plan=plan,
        )
    say(f"staged in {folder}: " + ", ".join(f"{name} ({count(len(part), 'row')})" for name, part in configs.items()))
    if options.dry_run:
        say(f"dry run: nothing was published; next: hf-mllm-aug publish {folder} {options.output}")
        return
    with quiet.progress(wanted=False):
        commit = push_to_hub(folder, options.output, private=options.private or None, create_pr=options.create_pr)
    say(f"published {', '.join(configs)}: {commit.pr_url or commit.commit_url}")


def reproduction(script: DataSetScript, options: argparse.Namespace) -> list[str]:
    """The words of the command that makes the data set again, without what is of this machine alone.

    Args:
        script: The script.
        options: What it was called with, see `parse`.
    """
    usual = _parser(script)
    words = ["uv", "run", script.file, public_name(options.input), options.output]
    for name in (*_DECISIVE, "form", *script.options):
        value = getattr(options, name)
        if name == "captioner":
            words += [word for label in value or [CAPTIONER] for word in (_flag(name), _public_captioner(label))]
        elif name == "seed":
            words += [_flag(name), str(value)] if options.shuffle else []
        elif value is True:
            words.append(_flag(name))
        elif value != usual.get_default(name):
            words += [_flag(name), public_name(str(value)) if name in script.options else str(value)]
    return words


def _public_captioner(text: str) -> str:
    name, checkpoint = named(text)
    return f"{name}={public_name(checkpoint)}" if checkpoint else public_name(name)
