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


SPREAD = """
import itertools
from datasets.distributed import split_dataset_by_node

def spread(stream, mapped):
    \"\"\"The captions as they come when the rows are shuffled, sharded and divided among nodes, in both styles.\"\"\"
    found = {"shuffled": list(stream.shuffle(seed=1, buffer_size=4)), "mapped, shuffled": list(mapped.shuffle(seed=1))}
    for name, rows in (("stream", stream), ("mapped", mapped)):
        found[f"{name}, shards"] = list(itertools.chain(*(rows.shard(num_shards=2, index=i) for i in range(2))))
        found[f"{name}, nodes"] = list(itertools.chain(*(split_dataset_by_node(rows, i, 3) for i in range(3))))
    return {name: sorted(row["caption"] for row in rows) for name, rows in found.items()}
"""


def test_repositories_are_shuffled_sharded_and_divided_among_nodes(client: Any) -> None:
    answer = client(
        MAKE
        + SPREAD
        + """
put("me/table", {f"data/train-{part:05d}-of-00002.parquet": parquet(
    image_url=[f"http://a.b/{i}.jpg" for i in range(part, 12, 2)],
    caption=[f"caption {i:02d}" for i in range(part, 12, 2)]) for part in range(2)})
put("me/tars", {f"cc3m-train-{part:04d}.tar": tar(range(10 + part * 3, 13 + part * 3)) for part in range(3)})
say(**{repo: spread(load_cc3m(repo, streaming=True), load_cc3m(repo)) for repo in ("me/table", "me/tars")})
"""
    )
    for repository, expected in (("me/table", range(12)), ("me/tars", range(10, 19))):
        for how, found in answer[repository].items():
            assert found == [f"caption {number:02d}" for number in expected], (repository, how)


def test_a_mirror_of_the_tars_is_one_under_any_name(client: Any) -> None:
    answer = client(
        MAKE
        + """
put("me/mirror-of-tars", {
    "README.md": b"# A mirror", "_info.json": b"{}", "shards/cc3m-train-0000.tar": tar(range(2)),
    "shards/cc3m-train-0001.tar": tar([2]),
    "shards/cc3m-validation-0000.tar": tar([9])})
put("me/unsplit", {"0000.tar": tar([4]), "0001.tar": tar([5])})
def said(source, **options):
    try:
        return open_source(source, **options)["caption"][:]
    except UsageError as error:
        return str(error)
captions = lambda *source, **options: [row["caption"] for row in load_cc3m(*source, **options)]
say(train=captions("me/mirror-of-tars", streaming=True), validation=captions("me/mirror-of-tars", split="validation"),
    unsplit=captions("me/unsplit"), listed=said("hf://datasets/me/unsplit/list.tsv"))
"""
    )
    assert answer["train"] == ["caption 0", "caption 1", "caption 2"]
    assert answer["validation"] == ["caption 9"]
    assert answer["unsplit"] == ["caption 4", "caption 5"]
    assert "list.tsv: from an address tars and Parquet files are read. Download it" in answer["listed"]


def test_parquet_files_are_named_by_their_addresses_on_the_command_line(client: Any) -> None:
    answer = client(
        MAKE
        + """
put("me/files", {f"data/{part}.parquet": parquet(
    image_url=[f"http://a.b/{part}.jpg"], caption=[f"caption {part}"]) for part in range(2)})
put("me/img2dataset", {"0.parquet": parquet(
    key=["0"], status=["success"], url=["http://a.b/0.jpg"], caption=["downloaded"], jpg=[b"JPEG"])})
say(table=rows(open_source("hf://datasets/me/files/data/*.parquet")),
    one=rows(open_source("hf://datasets/me/files/data/1.parquet", max_samples=1)),
    downloaded=rows(open_source("hf://datasets/me/img2dataset/0.parquet")))
"""
    )
    assert [row[1:] for row in answer["table"]] == [[f"http://a.b/{i}.jpg", f"caption {i}", False] for i in range(2)]
    assert answer["one"] == answer["table"][1:]
    assert [row[2:] for row in answer["downloaded"]] == [["downloaded", True]]
