"""``python -m hf_mllm_aug``: the same as the command ``hf-mllm-aug``."""

from hf_mllm_aug.cli import main

if __name__ == "__main__":
    main()
