# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-mllm-aug>=0.1"]
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "24h"
# secrets = ["HF_TOKEN"]
# ///
r"""Caption YFCC15M by several multimodal LLMs, and publish it as a data set of several configs.

INPUT is any form of YFCC15M: OpenAI's list of photos (yfcc100m_subset_data.tsv, which has no captions: name YFCC100M's
own table with --metadata), a folder with the files of the Hub repository dalle-mini/YFCC100M_OpenAI_subset, DeCLIP's
list (yfcc15m_clean_open_data.json, another subset), img2dataset's tars, Parquet files or folders, the paper's JSON of
image and caption. Pictures that are addresses are fetched.

On this machine, in an environment that has hf-mllm-aug, a hundred rows with the miniature captioner:

    python yfcc15m.py yfcc100m_subset_data.tsv OWNER/yfcc15m-captioned --metadata yfcc100m_dataset.bz2 \
        --max-samples 100 --captioner tiny-llava

With uv, in an environment of its own, from a copy of the Hub's files:

    uv run yfcc15m.py YFCC100M_OpenAI_subset/ OWNER/yfcc15m-captioned --streaming --captioner llava-1.5

On Hugging Face's machines, with the Hub's files as a folder; what is done is kept in a bucket, and gone on with when
the same line is run again:

    hf jobs uv run --flavor a10g-large -s HF_TOKEN -v hf://buckets/OWNER/kept:/kept \
        -v hf://datasets/dalle-mini/YFCC100M_OpenAI_subset:/yfcc yfcc15m.py \
        /yfcc OWNER/yfcc15m-captioned --streaming --work-dir /kept/yfcc15m --resume
"""

from hf_mllm_aug import load_yfcc15m
from hf_mllm_aug.commands.dataset_script import DataSetScript, main

SCRIPT = DataSetScript(
    name="YFCC15M",
    load=load_yfcc15m,
    card="yfcc15m",
    about=__doc__,
    file="yfcc15m.py",
    options={"metadata": "the captions for OpenAI's list: yfcc100m_dataset, or a table that names photoid, title, ..."},
)

if __name__ == "__main__":
    main(SCRIPT)
