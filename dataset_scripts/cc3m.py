# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-mllm-aug>=0.1"]
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "24h"
# secrets = ["HF_TOKEN"]
# ///
r"""Caption CC3M (Conceptual Captions) by several multimodal LLMs, and publish it as a data set of several configs.

INPUT is any form of CC3M: the list (Train_GCC-training.tsv, caption and address), the Hub repositories
google-research-datasets/conceptual_captions and pixparse/cc3m-wds or a copy of either, img2dataset's tars, Parquet
files or folders, the paper's JSON of image and caption. Pictures that are addresses are fetched.

On this machine, in an environment that has hf-mllm-aug, a hundred rows with the miniature captioner:

    python cc3m.py Train_GCC-training.tsv OWNER/cc3m-captioned --max-samples 100 --captioner tiny-llava

With uv, in an environment of its own, the first thousand pictures of pixparse's copy:

    uv run cc3m.py pixparse/cc3m-wds OWNER/cc3m-captioned --max-samples 1000 --captioner llava-1.5

On Hugging Face's machines, what is done kept in a bucket, and gone on with when the same line is run again:

    hf jobs uv run --flavor a10g-large -s HF_TOKEN -v hf://buckets/OWNER/kept:/kept cc3m.py \
        pixparse/cc3m-wds OWNER/cc3m-captioned --captioner llava-1.5 --captioner qwen-vl --work-dir /kept/cc3m --resume
"""

from hf_mllm_aug import load_cc3m
from hf_mllm_aug.commands.dataset_script import DataSetScript, main

SCRIPT = DataSetScript(
    name="CC3M",
    load=load_cc3m,
    card="cc3m",
    about=__doc__,
    file="cc3m.py",
    options={"config": "the repository's config: unlabeled (what is read if not given) or labeled"},
)

if __name__ == "__main__":
    main(SCRIPT)
