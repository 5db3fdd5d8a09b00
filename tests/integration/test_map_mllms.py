"""Sampled captions of the paper's MLLMs in `Dataset.map`: the same in one process, in several, and shard by shard."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets

from hf_mllm_aug import Captioner
from tests.conftest import build_llava
from tests.tiny_mllms import MAKERS

ALL = {"llava-1.5": build_llava, **MAKERS}


@pytest.mark.parametrize("name", ALL)
def test_seed_and_key_decide_whatever_the_batch_the_shard_and_the_workers(
    name: str, tmp_path: Path, pictures: list[bytes]
) -> None:
    folder = ALL[name](tmp_path / name)
    captioner = Captioner(name, checkpoint=folder, generation={"do_sample": True, "top_p": 0.9}, device="cpu")
    rows = Dataset.from_dict({"key": [f"k{row}" for row in range(8)], "image": [*pictures[:4], *pictures[:4]]})
    column = captioner.caption_column
    one = rows.map(captioner, batched=True, batch_size=3)[column]
    assert rows.map(captioner, batched=True, batch_size=8, num_proc=2, with_rank=True)[column] == one
    shards = [rows.shard(3, index).map(captioner) for index in range(3)]
    assert concatenate_datasets(shards).sort("key")[column] == one
    assert len(set(one)) > 6, "equal pictures of other keys have other captions"
