"""Long runs: `run`, the resumable form of ``map``.

A run is a folder with a plan and one Parquet file a finished shard and stage (`plan`, `shard_files`, `store`). Whoever
works on it looks for a shard that is missing, claims it (`claims`), works it and writes its file whole (`local`, and
`on_ray` for a cluster), until none is missing: processes on one machine, on many, one after the other or at a time,
need nothing else of each other.
"""

from hf_mllm_aug.long_runs.long_run import LongRun as LongRun
from hf_mllm_aug.long_runs.long_run import run as run
from hf_mllm_aug.long_runs.report import Summary as Summary
