"""A `Captioner`'s settings beside its engine: what goes together, what is refused, what the hash sees."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets.fingerprint import Hasher

from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.errors import UsageError

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": URL, "engine": "transformers"}, "base_url= goes with engine='openai', but the engine is 'transf"),
        ({"base_url": URL, "engine": "vllm"}, "base_url= goes with engine='openai', but the engine is 'vllm'"),
        ({"base_url": "127.0.0.1:8000"}, "base_url is no address such as"),
        ({"base_url": "ftp://127.0.0.1/v1"}, "base_url is no address such as"),
        ({"base_url": "http://[::1/v1"}, "base_url is no address such as"),
        ({"base_url": "http://a b/v1"}, "base_url is no address such as"),
        ({"base_url": 8000}, "base_url is no address such as"),
        ({"base_url": "http://ann:secret@host/v1"}, "holds a user name or a password"),
        ({"base_url": "http://host/v1?api_key=secret"}, "ends with a query, which may hold a key"),
        ({"device": "cuda:0"}, "device='cuda:0' means nothing to the engine 'openai': the server has its own"),
        ({"device": "cuda:0", "engine": "vllm"}, "the engine 'vllm': set CUDA_VISIBLE_DEVICES"),
        ({"dtype": "float16"}, "dtype='float16' means nothing to the engine 'openai'"),
        ({"compile": False}, "compile=False means nothing to the engine 'openai', which sees to it itself"),
        ({"compile": True, "engine": "vllm"}, "compile=True means nothing to the engine 'vllm'"),
        (
            {"compile": True, "engine": "transformers", "generation": {"num_beams": 2}},
            "compile=True does not go with beams",
        ),
        ({"prompt_style": "segments"}, "prompt_style='segments' cannot be had from a server"),
        ({"generation": {"num_beams": 3}}, "the engine 'openai' has no num_beams; the engine 'transformers' has"),
        (
            {"generation": {"no_repeat_ngram_size": 3}, "engine": "vllm"},
            "the engine 'vllm' has no no_repeat_ngram_size",
        ),
        ({"generation": {"do_sample": True, "typical_p": 0.5}}, "the engine 'openai' has no typical_p"),
        ({"model": "tiny-llava"}, "pass checkpoint= with the name that the server has for it"),
        ({"model": "minigpt-4"}, "pass checkpoint= with the name that the server has for it"),
        ({"model": "qwen-vl"}, "'qwen-vl' is a conversation in a form of its own.*pass prompt="),
        ({"model": "qwen-vl", "engine": "vllm"}, "'qwen-vl' is asked in the style 'native'.*engine='transformers'"),
    ],
)
def test_settings_that_an_engine_would_ignore_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Captioner(**{"model": "org/some", "engine": "openai", **settings})
    assert "secret" not in str(caught.value)


def test_a_server_may_call_its_model_anything(tmp_path: Path) -> None:
    for name, label in (("gpt-4o", "gpt-4o"), ("org/some", "org/some"), ("/srv/models/some/", "some")):
        captioner = Captioner(name, engine="openai", base_url=URL)
        assert (captioner.label, captioner.folder) == (label, None)
        assert captioner.model_key(None).source == name
        assert "/srv" not in str(captioner.describe())
    own = Captioner("llava-1.5", checkpoint="served", engine="openai", base_url=URL)
    assert (own.label, own.source, own.resolved_prompt) == ("llava-1.5", "served", "Describe <image> in English:")
    assert own.describe()["licence"] is None, "whose weights these are is not known"
    assert Captioner("llava-1.5", engine="openai").source == "llava-hf/llava-1.5-7b-hf"


def test_the_folder_of_a_served_model_is_not_read(random_llava: Path) -> None:
    captioner = Captioner(random_llava, engine="openai", base_url=URL)
    assert captioner.folder is None
    assert captioner.mllm is None
    assert captioner.describe()["digest"] is None


def test_the_server_is_named_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    captioner = Captioner("org/some", engine="openai")
    with pytest.raises(UsageError, match=r"none is named\. To do: pass base_url=.* or set OPENAI_BASE_URL"):
        captioner.model_key(None)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{URL}/")
    assert captioner.model_key(None).base_url == URL
    named = Captioner("org/some", engine="openai", base_url="http://elsewhere/v1")
    assert named.model_key(None).base_url == "http://elsewhere/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://ann:secret@host/v1")
    with pytest.raises(UsageError, match="holds a user name or a password"):
        captioner.model_key(None)


def test_the_hash_is_the_models_whoever_serves_it() -> None:
    here = Captioner("org/some", engine="openai", base_url=URL)
    hashes = {
        Hasher.hash(here),
        Hasher.hash(Captioner("org/some", engine="openai", base_url="http://elsewhere/v1")),
        Hasher.hash(Captioner("org/some", engine="openai")),
    }
    assert len(hashes) == 1
    assert Hasher.hash(Captioner("org/other", engine="openai", base_url=URL)) not in hashes
    assert Hasher.hash(Captioner("org/some")) not in hashes
    assert pickle.loads(pickle.dumps(here)) == here, "other processes must find the server"


def test_a_batch_is_as_large_as_suits_the_engine() -> None:
    assert Captioner("llava-1.5", engine="openai").micro_batch == 16
    assert Captioner("llava-1.5", engine="vllm").micro_batch == 64
    assert Captioner("llava-1.5", engine="openai", batch_size=3).micro_batch == 3


def test_asking_a_server_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from hf_mllm_aug.captioners import Captioner, engine\n"
        "from PIL import Image\n"
        "from tests.chat_server import ChatServer\n"
        "with ChatServer(lambda question: 'A dog.') as server:\n"
        "    captioner = Captioner('org/some', engine='openai', base_url=server.url, name='some')\n"
        "    print(captioner({'image': Image.new('RGB', (9, 9))})['caption_some'], end=' ')\n"
        "print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "A dog. []", done.stderr
