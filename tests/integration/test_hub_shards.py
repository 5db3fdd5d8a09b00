"""WebDataset tars on the Hub: streamed and downloaded, by pattern and by braces, at one commit."""

from __future__ import annotations

from typing import Any

CODE = """
import io, tarfile
from datasets import disable_progress_bars
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.loaders.shards import load_webdataset

disable_progress_bars()
api = HfApi()

def tar(numbers, mark=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for n in numbers:
            for name, data in {f"{n:03d}.jpg": b"x" * 3000, f"{n:03d}.txt": f"{mark}{n}".encode()}.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()

def put(path, data):
    return api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id="me/wds", repo_type="dataset").oid

def captions(pattern, **options):
    return list(load_webdataset(f"hf://datasets/me/wds{pattern}", **options)["caption"])

api.create_repo("me/wds", repo_type="dataset", private=True)
for shard in range(3):
    first = put(f"cc3m-train-{shard:04d}.tar", tar(range(shard * 2, shard * 2 + 2)))
put("cc3m-validation-0000.tar", tar([90]))
"""


def test_tars_on_the_hub_are_read_at_one_commit(client: Any) -> None:
    answer = client(
        CODE
        + """
both = [captions("/cc3m-train-*.tar", streaming=flag) for flag in (False, True)]
braces = [captions("/cc3m-{validation-0000,train-0001}.tar", streaming=True)]
braces.append(captions("/cc3m-train-{0001..0002}.tar", streaming=True))
stream = load_webdataset("hf://datasets/me/wds/cc3m-train-*.tar", streaming=True)
put("cc3m-train-0001.tar", tar([2, 3], "edited "))
after = [list(stream["caption"]), captions("/cc3m-train-*.tar"), captions(f"@{first}/cc3m-train-*.tar")]
try:
    load_webdataset("hf://datasets/me/wds/cc3m-train-{0002..0003}.tar")
except UsageError as error:
    missing = str(error)
say(both=both, braces=braces, after=after, missing=missing, first=first)
""",
        HF_TOKEN="hf_loopbacktesttokenloopbacktest",
    )
    before = [str(n) for n in range(6)]
    edited = ["0", "1", "edited 2", "edited 3", "4", "5"]
    assert answer["both"] == [before, before]
    assert answer["braces"] == [["90", "2", "3"], ["2", "3", "4", "5"]]
    assert answer["after"] == [before, edited, before], "a stream keeps its commit, a new call sees the new one"
    assert "cc3m-train-0003.tar' matches no file" in answer["missing"]
