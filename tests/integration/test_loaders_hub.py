"""The published repositories, copied to a Hub on this machine and read by the official client."""

from __future__ import annotations

from typing import Any

MAKE = """
import io, logging, os, tarfile
logging.basicConfig(level=logging.WARNING)
import pyarrow as pa, pyarrow.parquet as pq
from hf_mllm_aug import load_cc3m, load_cc12m, load_yfcc15m
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.sources import open_source
api = HfApi()

def put(repo, files):
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    for path, data in files.items():
        api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=repo, repo_type="dataset")

def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()

def tar(numbers):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in numbers:
            for suffix, data in (("jpg", b"JPEG"), ("txt", b"caption %d" % number)):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()

def rows(dataset):
    return [[row["key"], row["url"], row["caption"], row["image"] is not None] for row in dataset]
"""


def test_the_default_repositories_are_read_in_both_styles(client: Any) -> None:
    answer = client(
        MAKE
        + '''
card = """---
configs:
- config_name: labeled
  data_files: [{split: train, path: labeled/train-*}]
- config_name: unlabeled
  default: true
  data_files: [{split: train, path: unlabeled/train-*}, {split: validation, path: unlabeled/validation-*}]
---
"""
def pair(mark, **more):
    return parquet(image_url=[f"http://a.b/{mark}.jpg"], caption=[mark], **more)

put("google-research-datasets/conceptual_captions", {
    "README.md": card.encode(),
    "labeled/train-00000-of-00001.parquet": pair("labeled", labels=[["dog"]]),
    "unlabeled/train-00000-of-00001.parquet": pair("train"),
    "unlabeled/validation-00000-of-00001.parquet": pair("validation")})
put("google-research-datasets/conceptual_12m", {"data/train-00000-of-00001.parquet": pair("twelve")})
put("dalle-mini/YFCC100M_OpenAI_subset", {"data/train-00000-of-00001.parquet": parquet(
    photoid=["5001"], title_clean=["My Dog"], description_clean=["Rex"], img=[b"JPEG"],
    downloadurl=["http://x/1.jpg"])})
put("me/mirror", {"data/train-00000-of-00001.parquet": pair("mirror")})
loads = {"cc3m": (load_cc3m, {}), "validation": (load_cc3m, {"split": "validation"}),
         "labeled": (load_cc3m, {"config": "labeled"}), "cc12m": (load_cc12m, {}), "yfcc": (load_yfcc15m, {}),
         "mirror": (load_cc3m, {"source": "me/mirror"})}
say(found={name: rows(load(**options)) for name, (load, options) in loads.items()},
    streamed={name: rows(load(**options, streaming=True)) for name, (load, options) in loads.items()},
    command=open_source("google-research-datasets/conceptual_captions", max_samples=1)["caption"][:])
'''
    )
    captions = {name: [row[2] for row in rows] for name, rows in answer["found"].items()}
    assert captions == {
        "cc3m": ["train"],
        "validation": ["validation"],
        "labeled": ["labeled"],
        "cc12m": ["twelve"],
        "yfcc": ["My Dog Rex"],
        "mirror": ["mirror"],
    }
    assert answer["found"]["yfcc"] == [["5001", "http://x/1.jpg", "My Dog Rex", True]]
    assert answer["streamed"] == answer["found"]
    assert answer["command"] == ["train"]


def test_pixparses_tars_are_read_by_split(client: Any) -> None:
    answer = client(
        MAKE
        + """
put("pixparse/cc3m-wds", {
    "cc3m-train-0000.tar": tar(range(3)), "cc3m-train-0001.tar": tar(range(3, 6)),
    "cc3m-validation-0000.tar": tar([9])})
stream = load_cc3m("pixparse/cc3m-wds", streaming=True)
say(found=rows(load_cc3m("pixparse/cc3m-wds")), streamed=rows(stream), shards=stream.num_shards,
    validation=rows(load_cc3m("pixparse/cc3m-wds", split="validation")))
"""
    )
    assert answer["found"] == [[f"{i:09d}", None, f"caption {i}", True] for i in range(6)]
    assert answer["streamed"] == answer["found"]
    assert answer["shards"] == 2
    assert [row[2] for row in answer["validation"]] == ["caption 9"]


def test_a_repository_that_is_a_script_says_what_to_do(client: Any) -> None:
    answer = client(
        MAKE
        + """
put("google-research-datasets/conceptual_12m", {"conceptual_12m.py": b"raise SystemExit"})
put("dalle-mini/YFCC100M_OpenAI_subset", {"YFCC100M_OpenAI_subset.py": b"raise SystemExit"})
messages = []
for load in (load_cc12m, load_yfcc15m):
    try:
        load()
    except UsageError as error:
        messages.append(str(error))
say(messages=messages)
"""
    )
    cc12m, yfcc = answer["messages"]
    assert "conceptual_12m on the Hub is a loading script" in cc12m
    assert "Download the list, cc12m.tsv, and pass its path" in cc12m
    assert "hf download dalle-mini/YFCC100M_OpenAI_subset" in yfcc
