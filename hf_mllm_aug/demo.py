"""The steps of ``hf-mllm-aug demo``: the whole way of a data set, on the pictures that come with the package.

Each step returns what it did; `commands.demo` shows it. The release goes to a loopback Hub (a server process on this
machine) unless a repository on the Hub is named, and is read back by a process that knows nothing but its address.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.errors import OutputExistsError, PublishError

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mllm_aug import Augment

PICTURES = Path(__file__).parent / "demo_data"
ENCODER = "tiny-clip"
LOCAL_REPO = "local/mllm-aug-demo"

# Says that an output folder is a demo's, so that the next demo may replace it.
_MARK = ".hf-mllm-aug-demo"

# Settings that would lead a client to caches other than those below HF_HOME, or keep it off the network.
_OF_THE_PERSON = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
)

# A stop, and what may follow it within the sentence.
_CLOSING = ".!?…。！？\"'”’)"

# What a stranger would run: it knows the address, and nothing of this package.
_READER = """
import json, sys
from datasets import load_dataset
repo_id, *configs = sys.argv[1:]
for config in configs:
    rows = load_dataset(repo_id, config, split="train")
    pictures = sum(picture is not None for picture in rows["image"]) if "image" in rows.column_names else None
    print(json.dumps({"config": config, "key": rows["key"][:], "caption": rows["caption"][:], "pictures": pictures}))
"""


@dataclass(frozen=True)
class ReadBack:
    """A config as `load_dataset` gave it; `pictures` is how many decoded, None where there is no such column."""

    keys: list[str]
    captions: list[str | None]
    pictures: int | None


@dataclass(frozen=True)
class Hub:
    """Where the demo publishes: the environment of a client, and what to call it."""

    environment: Mapping[str, str]
    address: str
    local: bool


def prepare_output(out: Path) -> Path:
    """Make the demo's output folder, in place of an earlier demo's.

    Returns:
        The folder for the staged data set, in it.

    Raises:
        OutputExistsError: The folder has something in it that is no demo's.
    """
    if out.exists() and not (out.is_dir() and ((out / _MARK).is_file() or not any(out.iterdir()))):
        raise OutputExistsError(
            f"{out} exists and was not written by the demo. Choose another --out, or remove it first."
        )
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():  # and not the folder itself, which may be a link, or the one that this runs in
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (out / _MARK).write_text("Written by hf-mllm-aug demo, which replaces this folder when it is run again.\n")
    return out / "dataset"


def captioners() -> list[str]:
    """The names of the miniatures whose weights are installed."""
    from hf_mllm_aug.captioners.presets import PRESETS

    return [preset.name for preset in PRESETS.values() if preset.embedded]


def caption_pictures() -> tuple[Dataset, Augment]:
    """Caption the pictures with each miniature; what was generated is kept, so that it can be shown what was cut."""
    from hf_mllm_aug import Augment
    from hf_mllm_aug.loaders.picture_folder import load_picture_folder

    augment = Augment(captioners(), keep_unsheared=True)
    rows = load_picture_folder(PICTURES)
    return rows.map(augment, batched=True, features=augment.features(rows.features)), augment


def stage(rows: Dataset, augment: Augment, folder: Path) -> dict[str, Dataset]:
    """Stage the configs with their card, and return them."""
    from hf_mllm_aug import build_card, save_configs, to_configs
    from hf_mllm_aug.staged import keep_record

    configs: dict[str, Dataset] = to_configs(rows, captioners=list(augment.members), images="embed")
    card = build_card(
        configs,
        captioners=list(augment.members),
        shear=augment.shear,
        pretty_name="hf-mllm-aug demo",
        description="The pictures that come with hf-mllm-aug, captioned by miniature models. No training data.",
        source="Open Clip Art; the columns creator and license name the authors and their terms.",
        command=["hf-mllm-aug", "demo"],
    )
    keep_record(card, augment.describe())
    save_configs(configs, folder, card=card)
    return configs


@contextlib.contextmanager
def hub(repo_id: str | None) -> Iterator[Hub]:
    """The Hub to publish to: the real one for a repository that was named, else a loopback one until the block ends.

    The client of the loopback Hub gets a home of its own, so that no cache is mistaken for what the server sent, and a
    token of its own, so that a person's is never sent.
    """
    if repo_id is not None:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        yield Hub(dict(os.environ), f"{endpoint}/datasets/{repo_id}", local=False)
        return
    with tempfile.TemporaryDirectory(prefix="hf-mllm-aug-demo-", ignore_cleanup_errors=True) as home:
        server = subprocess.Popen([sys.executable, "-m", "hf_mllm_aug.loopback_hub"], stdout=subprocess.PIPE, text=True)
        try:
            line = server.stdout.readline() if server.stdout else ""
            if not line:
                raise PublishError("the loopback Hub did not start. Run to see why: python -m hf_mllm_aug.loopback_hub")
            says: dict[str, Any] = json.loads(line)
            environment = {**os.environ, "HF_HOME": home, **says["environment"]}
            for name in _OF_THE_PERSON:
                environment.pop(name, None)
            yield Hub(environment, f"{says['url']}/datasets/{LOCAL_REPO}", local=True)
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def publish(folder: Path, repo_id: str, where: Hub) -> str:
    """Publish a staged folder by the command that a person would use, in a process of its own.

    Returns:
        What the command said.

    Raises:
        PublishError: It failed; with its own reason.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hf_mllm_aug", "publish", str(folder), repo_id],
        env=dict(where.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PublishError(_last_line(done.stderr).removeprefix("error: "))
    return done.stdout


def read_back(repo_id: str, configs: Sequence[str], where: Hub) -> dict[str, ReadBack]:
    """Read the published configs with `load_dataset`, in a process that knows nothing but the address.

    Returns:
        What was read, by config.

    Raises:
        PublishError: They cannot be read.
    """
    done = subprocess.run(
        [sys.executable, "-c", _READER, repo_id, *configs],
        env=dict(where.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PublishError(f"what was published cannot be read back: {_last_line(done.stderr)}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {item["config"]: ReadBack(item["key"], item["caption"], item["pictures"]) for item in found}


def differing_rows(staged: Dataset, read: ReadBack) -> int:
    """How many rows of a config came back otherwise than they were staged."""
    before = list(zip(staged[schema.KEY], staged[schema.CAPTION], strict=True))
    after = list(zip(read.keys, read.captions, strict=True))
    return abs(len(before) - len(after)) + sum(a != b for a, b in zip(before, after, strict=False))


def split_tail(generated: str, caption: str) -> tuple[str, str]:
    """What was generated, as the part that shearing kept and the part that it cut off; a closing stop counts as kept.

    >>> split_tail("A red fox. It is a mammal.", "A red fox")
    ('A red fox.', 'It is a mammal.')
    >>> split_tail("A red fox.", "A red fox")
    ('A red fox.', '')
    """
    generated = " ".join(generated.split())
    if not generated.startswith(caption):
        return caption, generated
    tail = generated[len(caption) :]
    stops = len(tail) - len(tail.lstrip(_CLOSING))
    return caption + tail[:stops], tail[stops:].strip()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
