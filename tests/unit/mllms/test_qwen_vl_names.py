"""The names that `hf_mllm_aug.mllms` exports: there, documented, and loaded only when used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

from hf_mllm_aug import mllms

CONTRACT = {
    f"{model}{part}"
    for model in ("MiniGPT4", "Otter", "QwenVL")
    for part in ("Config", "ForConditionalGeneration", "ImageProcessor", "Processor")
} | {"convert_minigpt4", "register"}


def test_the_contract_is_exported() -> None:
    assert set(mllms.__all__) >= CONTRACT
    assert sorted(mllms.__all__) == sorted(dir(mllms))


@pytest.mark.parametrize("name", mllms.__all__)
def test_each_name_is_importable_and_documented(name: str) -> None:
    value: Any = getattr(mllms, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'QwenVLModel'"):
        mllms.QwenVLModel  # noqa: B018 - the access is the test


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, hf_mllm_aug.mllms; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"


def test_registering_makes_all_models_known_and_may_be_repeated() -> None:
    mllms.register()
    mllms.register()
    for model in ("MiniGPT4", "Otter", "QwenVL"):
        kind: Any = getattr(mllms, f"{model}Config")
        assert CONFIG_MAPPING[kind.model_type] is kind
        assert type(AutoConfig.for_model(kind.model_type)) is kind
        assert AutoModelForImageTextToText._model_mapping[kind] is getattr(mllms, f"{model}ForConditionalGeneration")
