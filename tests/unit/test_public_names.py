"""The names that `hf_mllm_aug` exports: there, documented, and loaded only when used."""

import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys

import pytest

import hf_mllm_aug
from hf_mllm_aug import errors

CONTRACT = {
    "Augment",
    "Captioner",
    "FetchImages",
    "SampleCaption",
    "Shear",
    "augment",
    "build_card",
    "join_captions",
    "load_cc12m",
    "load_cc3m",
    "load_pairs",
    "load_yfcc15m",
    "metric_path",
    "push_to_hub",
    "retrieval_recall",
    "run",
    "save_configs",
    "save_pairs",
    "shear",
    "to_configs",
}
ERRORS = [
    name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
]
HEAVY = ("torch", "transformers", "datasets", "numpy", "PIL", "huggingface_hub")


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_contract_is_exported() -> None:
    assert CONTRACT | {"__version__"} <= set(hf_mllm_aug.__all__)
    assert sorted(hf_mllm_aug.__all__) == dir(hf_mllm_aug)


@pytest.mark.parametrize("name", sorted(set(hf_mllm_aug.__all__) - {"__version__"}))
def test_each_name_is_importable_and_documented_with_an_example(name: str) -> None:
    value = getattr(hf_mllm_aug, name)
    documented = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    text = inspect.getdoc(documented) or ""
    assert text, f"{name} has no docstring"
    assert ">>>" in text, f"{name}'s docstring shows no example"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'capton'"):
        hf_mllm_aug.capton  # noqa: B018 - the access is the test


def test_no_module_takes_the_place_of_a_public_function() -> None:
    modules = {module.name for module in pkgutil.iter_modules(hf_mllm_aug.__path__)}
    assert not modules & set(hf_mllm_aug.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = _python(f"import sys, hf_mllm_aug; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    loaded = _python(f"import sys, hf_mllm_aug.cli; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_importing_the_package_takes_under_a_fifth_of_a_second() -> None:
    # Of the processor's time: that of the clock depends on what else the machine does.
    code = "import time; start = time.process_time(); import hf_mllm_aug; print(time.process_time() - start)"
    assert min(float(_python(code)) for _ in range(3)) < 0.2


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_stands_in_the_tree_and_is_a_builtin_too(name: str) -> None:
    error = getattr(errors, name)
    assert name in (errors.__doc__ or "")
    if error is not errors.AugError:
        assert issubclass(error, errors.AugError)
        builtin = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert builtin[0] not in (Exception, BaseException, object)


@pytest.mark.parametrize(
    "error",
    [
        errors.ColumnError("image", ["text"], "pass image_column="),
        errors.UsageError("no such rule"),
        errors.UnknownNameError("captioner", "lava-1.5", ["llava-1.5"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_a_process_boundary(error: errors.AugError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_every_module_says_what_it_is_for() -> None:
    for module in pkgutil.walk_packages(hf_mllm_aug.__path__, "hf_mllm_aug."):
        if module.name.endswith("__main__") or module.name.endswith(".app"):
            continue
        assert importlib.import_module(module.name).__doc__, f"{module.name} has no docstring"
