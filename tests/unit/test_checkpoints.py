"""A checkpoint that brings code, or whose weights are damaged or missing, is refused; its code is not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hf_mllm_aug import Captioner
from hf_mllm_aug.checkpoints import reason
from hf_mllm_aug.embedding import DualEncoder
from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.shearing import Shear
from tests.conftest import build_llava
from tests.tiny_mllms import MAKERS
from tests.weights import PICKLE, Malicious, as_pickle, rewrite


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder whose model type only its own module knows; the module leaves a trace when it is run."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    config = {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    return folder


def test_a_captioner_with_code_of_its_own_is_refused_by_name(foreign: Path) -> None:
    with pytest.raises(CheckpointError, match=r"foreign: transformers has no model type 'foreign'") as caught:
        Captioner(foreign)({"image": Image.new("RGB", (8, 8))})
    assert str(foreign) not in str(caught.value)
    assert not (foreign.parent / "trace").exists(), "the repository's code was run"


def test_an_encoder_with_code_of_its_own_is_refused(foreign: Path) -> None:
    with pytest.raises(CheckpointError, match="runs no code from a repository"):
        DualEncoder.load(foreign)
    assert not (foreign.parent / "trace").exists(), "the repository's code was run"


def caption(folder: Path) -> Any:
    return Captioner(folder)({"image": Image.new("RGB", (8, 8))})


def shear_tokens(folder: Path) -> Any:
    return Shear(max_tokens=3, tokenizer=str(folder)).one("a dog")


@pytest.fixture
def half_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a model type that transformers knows, but neither as an image-text-to-text model nor with the
    classes of its tokenizer and processors, for which it has code.
    """

    def asked(*_: Any) -> str:
        raise AssertionError("somebody was asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    folder = tmp_path / "half-foreign"
    folder.mkdir()
    autos = ("AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor")
    code = dict.fromkeys(autos, "code.Foreign") | {"AutoTokenizer": ["code.Foreign", None]}
    config = {"model_type": "qwen2", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    for name, kind in (("tokenizer", "tokenizer_class"), ("processor", "processor_class")):
        (folder / f"{name}_config.json").write_text(json.dumps({kind: "Foreign", "auto_map": code}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Foreign", "auto_map": code}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    return folder


@pytest.mark.parametrize("use", [caption, DualEncoder.load, shear_tokens])
def test_code_for_a_part_of_a_known_model_is_refused_without_a_question(
    half_foreign: Path, use: Callable[[Path], Any]
) -> None:
    with pytest.raises(CheckpointError, match="half-foreign") as caught:
        use(half_foreign)
    assert str(half_foreign) not in str(caught.value)
    assert "on the terminal" not in str(caught.value)
    assert not (half_foreign.parent / "trace").exists(), "the repository's code was run"


@pytest.fixture
def damaged(random_llava: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(random_llava, folder)
    return folder


@pytest.mark.parametrize("use", [caption, DualEncoder.load])
def test_cut_off_weights_are_refused(damaged: Path, use: Callable[[Path], Any]) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot load damaged") as caught:
        use(damaged)
    assert str(damaged) not in str(caught.value)


def test_weights_of_another_shape_are_refused_by_name(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (damaged / "config.json").write_text(json.dumps(config))
    # Three matrices in each of two layers: up and gate 64 x 48, down 48 x 64.
    message = r"damaged has 6 of another shape .*layers\.0\.mlp\.down_proj\.weight is 48 x 64, not 48 x 72, .*, \.\.\.$"
    with pytest.raises(CheckpointError, match=message):
        caption(damaged)


def test_weights_that_are_missing_are_counted_and_named_not_drawn_at_random(damaged: Path) -> None:
    rewrite(damaged, lambda weights: {name: w for name, w in weights.items() if "mlp.down_proj" not in name})
    with pytest.raises(CheckpointError, match=r"damaged lacks 2 of the model's weights, .*layers\.0\.mlp\.down_proj"):
        caption(damaged)


def test_weights_that_the_model_has_no_place_for_are_counted_and_named(damaged: Path) -> None:
    more = {f"adapter.{number}.weight": torch.zeros(2) for number in range(5)}
    rewrite(damaged, lambda weights: {**weights, **more})
    names = r"adapter\.0\.weight, adapter\.1\.weight, adapter\.2\.weight, \.\.\.$"
    with pytest.raises(CheckpointError, match=rf"^damaged has 5 that the model has no place for: {names}"):
        caption(damaged)


def test_missing_and_superfluous_weights_are_told_together(damaged: Path) -> None:
    """As when somebody's weights have other names."""

    def renamed(weights: dict[str, Any]) -> dict[str, Any]:
        return {name.replace("mlp.down_proj", "mlp.lower"): weight for name, weight in weights.items()}

    rewrite(damaged, renamed)
    with pytest.raises(CheckpointError, match=r"damaged lacks 2 .*mlp\.down_proj.*; and has 2 .*mlp\.lower"):
        caption(damaged)


def test_a_leftover_that_the_model_knows_of_does_no_harm(damaged: Path) -> None:
    before = caption(damaged)
    leftover = {"vision_tower.embeddings.position_ids": torch.arange(10)}
    rewrite(damaged, lambda weights: {**weights, **leftover})
    assert caption(damaged) == before


def test_a_pickle_of_weights_is_read(damaged: Path) -> None:
    before = caption(damaged)
    as_pickle(damaged)
    assert caption(damaged) == before


@pytest.fixture(scope="session", params=["llava-1.5", *MAKERS])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of each of the paper's MLLMs, with the names of its original project."""
    return {"llava-1.5": build_llava, **MAKERS}[request.param](tmp_path_factory.mktemp("whole"))


@pytest.fixture(params=["safetensors", "bin"])
def original(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged, in both formats."""
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    if request.param == "bin":
        as_pickle(folder)
    return folder


def test_half_of_the_weights_of_any_model_are_refused(original: Path) -> None:
    rewrite(original, lambda weights: dict(sorted(weights.items())[::2]))
    with pytest.raises(
        CheckpointError, match=r"^damaged lacks \d\d+ of the model's weights, .*: \S+, \S+, \S+, \.\.\.$"
    ):
        caption(original)


def test_weights_that_any_model_has_no_place_for_are_refused(original: Path) -> None:
    more = {f"adapter.{number}.weight": torch.zeros(2) for number in range(5)}
    rewrite(original, lambda weights: {**weights, **more})
    names = r"\S*adapter\.0\.weight, \S*adapter\.1\.weight, \S*adapter\.2\.weight, \.\.\.$"
    with pytest.raises(CheckpointError, match=rf"^damaged has 5 that the model has no place for: {names}"):
        caption(original)


def test_a_pickle_with_code_of_any_model_is_refused_and_not_run(whole: Path, tmp_path: Path) -> None:
    folder, trace = tmp_path / "damaged", tmp_path / "trace"
    shutil.copytree(whole, folder)
    as_pickle(folder, adapter=Malicious(trace))
    with pytest.raises(CheckpointError, match=r"^damaged holds more than weights") as caught:
        caption(folder)
    assert not trace.exists(), "the pickle's code was run"
    assert str(tmp_path) not in str(caught.value)
    assert "weights_only" not in str(caught.value), "how to run the code after all"
    torch.load(folder / PICKLE, weights_only=False)
    assert trace.exists(), "the pickle would have done nothing anyway"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub, by way of a link, as on machines with a disk for caches."""
    from huggingface_hub import constants

    real, home = tmp_path / "disk" / "somebody", tmp_path / "home"
    (real / "hub").mkdir(parents=True)
    home.symlink_to(real)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    return home


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("hub/models--me--mine/snapshots/0a1b/config.json", "me/mine/config.json"),
        ("hub/models--me--mine/blobs/77fe", "me/mine"),
        ("hub/models--me--mine", "me/mine"),
        ("hub/models--me--mine-too/blobs/77fe", "$HF_HUB_CACHE/models--me--mine-too/blobs/77fe"),
        ("token", "$HF_HOME/token"),
    ],
)
def test_a_reason_calls_files_of_the_cache_by_their_checkpoint(
    place: str, told: str, linked: bool, cache: Path
) -> None:
    path = (cache if linked else cache.resolve()) / place
    assert reason(OSError(f"no JSON in '{path}'. Sorry"), "me/mine", "me/mine") == f"no JSON in '{told}'. Sorry"


def test_a_reason_is_one_line_without_the_colours_of_a_terminal() -> None:
    text = "\x1b[1;31mWeights only\x1b[0m load\n  failed"
    assert reason(ValueError(text), "me/mine", "me/mine") == "Weights only load failed"


def test_a_reason_does_not_say_where_a_folder_is_but_what_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        text = reason(OSError(f"{path}/config.json and {folder.resolve()}/x"), str(path), "mine")
        assert text == "mine/config.json and mine/x"


def test_an_error_of_a_checkpoint_in_the_hubs_cache_has_no_path_of_it(cache: Path, random_llava: Path) -> None:
    snapshot = cache / "hub" / "models--me--mine" / "snapshots" / ("0" * 40)
    shutil.copytree(random_llava, snapshot)
    (cache / "hub" / "models--me--mine" / "refs").mkdir()
    (cache / "hub" / "models--me--mine" / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"me/mine") as caught:
        Captioner("me/mine")({"image": Image.new("RGB", (8, 8))})
    for place in (cache, cache.resolve()):
        assert str(place) not in str(caught.value)
