"""The engine ``"openai"`` against models that run: captions are those of the engine ``"transformers"``."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug import Captioner
from hf_mllm_aug.captioners import engine, presets
from hf_mllm_aug.captioners.decoding import resolve
from hf_mllm_aug.captioners.engine import Generated, Request
from tests.chat_server import ChatServer, Question, cut, says, stalled, status
from tests.warm_python import python

# Pictures of the miniature, which has no conversation: what stands before the answer is the prompt alone.
_TEMPLATE = (
    "<s>{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield
    engine.unload()


@pytest.fixture(scope="module")
def miniature() -> Callable[[Question], Generated]:
    """The model behind the server: the one that comes with the package."""
    captioner = Captioner("tiny-llava", device="cpu")
    model = engine.loaded(captioner.model_key("cpu"))

    def caption(question: Question) -> Generated:
        body = question.body
        request = Request(question.prompt, resolve(), body["max_tokens"], 0, sentence_stop=False, language="en")
        (found,) = model.generate([question.image.convert("RGB")], [""], request)
        assert isinstance(found, Generated)
        return found

    return caption


def rows(pictures: list[bytes]) -> dict[str, list[Any]]:
    return {
        "key": [f"k{number}" for number in range(len(pictures))],
        "image": [{"bytes": p, "path": None} for p in pictures],
    }


def test_captions_are_those_of_the_model_in_this_process(
    miniature: Callable[[Question], Generated], pictures: list[bytes]
) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"key": Value("string"), "image": ImageFeature()})
    broken = [*pictures[:7], b"no picture", *pictures[7:]]
    dataset = Dataset.from_dict(rows(broken), features=features)
    expected = dataset.map(Captioner("tiny-llava", device="cpu"), batched=True, batch_size=6)
    assert len(set(expected["caption_tiny_llava"])) > 5, "otherwise the order would not show"
    with ChatServer(miniature) as server:
        captioner = Captioner("tiny-llava", checkpoint="tiny", engine="openai", base_url=server.url, batch_size=5)
        widths = [Image.open(io.BytesIO(picture)).width for picture in pictures]
        server.faults = {widths[2]: [status(429, ("Retry-After", "1"))], widths[5]: [status(500)], widths[9]: [cut]}
        server.faults[widths[12]] = [says(b"{")]
        found = dataset.map(captioner, batched=True, batch_size=6)
    assert found["caption_tiny_llava"] == [
        None if number == 13 else caption for number, caption in enumerate(expected["caption_tiny_llava"])
    ]
    assert [number for number, error in enumerate(found["error_tiny_llava"]) if error is not None] == [7, 13]
    assert found["error_tiny_llava"][7] == expected["error_tiny_llava"][7]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_forked_workers_ask_on_lines_of_their_own(pictures: list[bytes]) -> None:
    from datasets import Dataset

    with ChatServer(lambda question: f"A picture {question.image.width} wide.") as server:
        captioner = Captioner("org/some", name="some", engine="openai", base_url=server.url)
        here = captioner(rows(pictures))  # the line is open when the process forks
        found = Dataset.from_dict(rows(pictures)).map(captioner, batched=True, batch_size=4, num_proc=2)
        assert found["caption_some"] == here["caption_some"]
        assert captioner(rows(pictures)) == here, "and the first line still stands"


@pytest.mark.skipif(sys.platform == "win32", reason="there an interruption cannot be sent to one process")
def test_an_interruption_ends_the_wait_for_a_server(pictures: list[bytes]) -> None:
    code = (
        "import io, sys\n"
        "from PIL import Image\n"
        "from hf_mllm_aug import Captioner\n"
        "captioner = Captioner('org/some', engine='openai', base_url=sys.argv[1])\n"
        "captioner({'image': [Image.new('RGB', (40, 30))] * 4})"
    )
    with ChatServer(lambda question: "A dog.") as server:
        server.faults[40] = [stalled] * 4
        waiting = subprocess.Popen([sys.executable, "-c", code, server.url], stderr=subprocess.PIPE, text=True)
        for _ in range(600):
            if len(server.questions) == 4:
                break
            time.sleep(0.1)
        assert len(server.questions) == 4
        start = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=20)
        assert time.monotonic() - start < 5
    assert said.strip().endswith("KeyboardInterrupt")
    assert "Task was destroyed" not in said


@contextlib.contextmanager
def serving(folder: Path, home: Path) -> Iterator[str]:
    """``transformers serve`` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*python(), str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    log = home / "serve.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                assert server.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.mark.slow
def test_transformers_serve_gives_the_captions_of_transformers(tmp_path: Path, pictures: list[bytes]) -> None:
    folder = tmp_path / "tiny-chat"
    shutil.copytree(str(presets.PRESETS["tiny-llava"].source), folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    asked: dict[str, Any] = {"prompt": "Describe <image> in English:", "name": "tiny"}
    expected = Captioner(folder, prompt_style="chat", device="cpu", **asked)(rows(pictures[:8]))
    assert len(set(expected["caption_tiny"])) > 3
    with serving(folder, tmp_path) as url:
        captioner = Captioner(folder, engine="openai", base_url=url, **asked)
        assert captioner(rows(pictures[:8])) == expected
        assert captioner.describe()["model"] == "tiny-chat", "what the server calls it is a path"
        refused = Captioner(folder, engine="openai", base_url=url, generation={"repetition_penalty": 1.2}, **asked)
        assert "status 422" in str(refused(rows(pictures[:1]))["error_tiny"][0])
