"""The raw pairs, captioned by the four miniatures and staged as the multi-config data set that the study trains from.

The way of every data set of this library: `run` (resumable), `to_configs`, `save_configs`, `load_dataset`.
"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, load_dataset

from hf_mllm_aug import Shear, build_card, run, save_configs, schema, to_configs

MINIATURES = ("tiny-minigpt-4", "tiny-otter", "tiny-qwen-vl", "tiny-llava")
"""In the order in which the paper names their big models; two of them are the first two, three the first three."""


def stage(pairs: Dataset, work: Path) -> Dataset:
    """Caption the pictures of ``pairs`` and stage the data set in ``work``, or take what is there.

    Returns:
        The rows of the config ``all``: key, url, the raw caption, each miniature's caption, error and, in
        ``generated_*``, its text before shearing. The pictures stay where they are; rows are in the order of ``pairs``.
    """
    release = work / "release"
    if not release.exists():
        rows = run(pairs, list(MINIATURES), str(work / "captions.run"), keep_unsheared=True, shard_size=512)
        configs = to_configs(rows, captioners=list(MINIATURES))
        card = build_card(
            configs,
            captioners=list(MINIATURES),
            shear=Shear(),
            pretty_name="Open Clip Art, captioned by four miniatures",
            source="Open Clip Art Library 0.18, public domain",
        )
        save_configs(configs, release, card=card)
    return load_dataset(str(release), schema.ALL_CONFIG, split="train", cache_dir=str(work / "cache"))
