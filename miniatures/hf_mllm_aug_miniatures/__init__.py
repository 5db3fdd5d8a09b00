"""Weights of miniature MLLMs, a folder each as transformers reads it; `hf_mllm_aug` finds them here."""

__version__ = "0.1.0"
