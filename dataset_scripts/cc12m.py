# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-mllm-aug>=0.1"]
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "24h"
# secrets = ["HF_TOKEN"]
# ///
r"""Caption CC12M (Conceptual 12M) by several multimodal LLMs, and publish it as a data set of several configs.

INPUT is any form of CC12M: the list (cc12m.tsv, address and caption), the Hub repositories
google-research-datasets/conceptual_12m and pixparse/cc12m-wds or a copy of either, img2dataset's tars, Parquet files or
folders, the paper's JSON of image and caption. Pictures that are addresses are fetched.

On this machine, in an environment that has hf-mllm-aug, a hundred rows with the miniature captioner:

    python cc12m.py cc12m.tsv OWNER/cc12m-captioned --max-samples 100 --captioner tiny-llava

With uv, in an environment of its own, from tars that are here and are not copied once more:

    uv run cc12m.py "tars/{00000..01242}.tar" OWNER/cc12m-captioned --streaming --captioner llava-1.5

On Hugging Face's machines, one of 64 pieces a job, what is done kept in a bucket; publish with --resume in place of
--shard when all are done:

    hf jobs uv run --flavor a10g-large -s HF_TOKEN -v hf://buckets/OWNER/kept:/kept cc12m.py \
        pixparse/cc12m-wds OWNER/cc12m-captioned --streaming --work-dir /kept/cc12m --shard 0/64
"""

from hf_mllm_aug import load_cc12m
from hf_mllm_aug.commands.dataset_script import DataSetScript, main

SCRIPT = DataSetScript(name="CC12M", load=load_cc12m, card="cc12m", about=__doc__, file="cc12m.py")

if __name__ == "__main__":
    main(SCRIPT)
