"""The engine ``"openai"``: what it asks, what it makes of answers, and what failures do to the rows around them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from hf_mllm_aug.captioners import Captioner, engine, openai_engine
from hf_mllm_aug.captioners.openai_engine import data_url
from hf_mllm_aug.captioners.patience import Patience
from hf_mllm_aug.errors import CheckpointError, UsageError
from tests.chat_server import ChatServer, Fault, Question, cut, says, stalled, status

QUICK = Patience(timeout=1.5, connect=0.5, tries=3, first_wait=0.02, max_wait=0.05, max_rest=2.0, max_failures=20)
WIDTHS = [40, 41, 42, 43, 44, 45]


def width(question: Question) -> str:
    return f"A picture {question.image.width} wide."


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(width) as found:
        yield found


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the user's own server and key, in no time, and with no engine left behind."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openai_engine, "PATIENCE", QUICK)
    yield
    engine.unload()


def asking(server: ChatServer, **settings: Any) -> Captioner:
    return Captioner("org/some", engine="openai", base_url=server.url, **{"name": "some", **settings})


def ask(captioner: Captioner, widths: list[int]) -> tuple[list[str | None], list[str | None]]:
    """Captions and errors of pictures of these widths."""
    rows = {"image": [Image.new("RGB", (size, 30)) for size in widths], "key": [f"key {size}" for size in widths]}
    columns = captioner(rows)
    return columns[captioner.caption_column], columns[captioner.error_column]


def captions(widths: list[int]) -> list[str]:
    return [f"A picture {size} wide." for size in widths]


def test_a_question_is_a_conversation_with_the_picture_in_its_place(server: ChatServer) -> None:
    picture = Image.effect_mandelbrot((31, 17), (-2, -1, 1, 1), 50).convert("RGB")
    asking(server, prompt="Look at <image> and say:", max_new_tokens=7)({"image": [picture]})
    (question,) = server.questions
    assert question.prompt == "Look at <image> and say:"
    assert question.image.tobytes() == picture.tobytes(), "nothing is lost on the way"
    rest = {name: value for name, value in question.body.items() if name != "messages"}
    assert rest == {"model": "org/some", "max_tokens": 7, "temperature": 0.0, "top_p": 1.0}
    assert Captioner("llava-1.5", engine="openai").request.prompt == "Describe <image> in English:"


def test_a_model_without_a_preset_is_asked_as_chat_models_are(server: ChatServer) -> None:
    captioner = asking(server)
    ask(captioner, [40])
    assert server.questions[0].prompt == "<image> Describe the image in English:"
    assert captioner.describe()["prompt"] == "Describe the image in English:"


def test_sampling_is_said_and_seeded_by_the_row(server: ChatServer) -> None:
    settings = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}
    for order in ([40, 41], [41, 40]):
        ask(asking(server, generation={**settings, "min_new_tokens": 3}), order)
    bodies = [question.body for question in server.questions]
    said = {"temperature": 0.2, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1, "min_tokens": 3}
    assert all(said.items() <= body.items() for body in bodies)
    assert all("min_p" not in body for body in bodies), "who does not sign as vLLM may refuse it"
    seeds = {question.image.width: set[int]() for question in server.questions}
    for question in server.questions:
        seeds[question.image.width].add(question.body["seed"])
    assert [len(found) for found in seeds.values()] == [1, 1], "the same whatever stands around a row"
    assert seeds[40] != seeds[41]
    assert all(0 <= seed < 2**31 for found in seeds.values() for seed in found)


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_servers_that_know_all_parameters_are_told_all(owner: str) -> None:
    with ChatServer(width, models=[{"id": "org/some", "owned_by": owner}]) as server:
        ask(asking(server), [40])
    neutral = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "min_tokens": 0}
    assert neutral.items() <= server.questions[0].body.items()


def test_stops_end_decoding_there_and_are_cut_here(server: ChatServer) -> None:
    server.caption = lambda question: "A dog. It runs."  # one that ignores stops
    captioner = Captioner("llava-1.5", preset="paper", engine="openai", base_url=server.url)
    assert ask(captioner, [40])[0] == ["A dog"]
    assert server.questions[0].body["stop"] == ["."]


def test_captions_come_in_order_and_only_so_many_are_asked_for_at_once() -> None:
    widths = list(range(40, 72))
    with ChatServer(width, delay=0.05) as server:
        assert ask(asking(server, batch_size=8), widths) == (captions(widths), [None] * len(widths))
    assert server.most_at_once == 8


def test_sixteen_are_asked_for_at_once_unless_said_otherwise() -> None:
    with ChatServer(width, delay=0.1) as server:
        ask(asking(server), list(range(40, 60)))
    assert server.most_at_once == 16


def test_finish_reasons_and_tokens_are_the_servers(server: ChatServer) -> None:
    from hf_mllm_aug.captioners.engine import Generated
    from hf_mllm_aug.captioners.pipeline import caption_rows
    from hf_mllm_aug.captioners.rows import read_rows

    server.caption = lambda question: Generated("A dog on", 3, "length" if question.image.width == 40 else "stop")
    rows = read_rows({"image": [Image.new("RGB", (size, 9)) for size in (40, 41)]}, "image", "key")
    ((first, second),) = caption_rows([asking(server)], rows)
    assert (first.tokens, first.finish_reason, second.finish_reason) == (3, "length", "stop")


# What passes is tried again; what does not is one row's, or everybody's


@pytest.mark.parametrize(
    "faults",
    [
        [status(500)],
        [status(500), status(502)],
        [status(408)],
        [status(409)],
        [status(429)] * 4,
        [status(429, ("Retry-After", "0"))],
        [status(503, ("Retry-After", "0"))],
        [cut],
        [stalled],
    ],
    ids=["500", "500-502", "408", "409", "429", "429-after", "503-after", "cut", "stalled"],
)
def test_a_failure_that_passes_costs_no_caption(server: ChatServer, faults: list[Fault]) -> None:
    server.faults[42] = list(faults)
    assert ask(asking(server), WIDTHS) == (captions(WIDTHS), [None] * 6)
    assert server.count(42) == len(faults) + 1
    assert server.count(41) == 1


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([status(500)] * 9, "the server answers with status 500 (error 500), 3 times"),
        ([cut] * 9, "the server broke the connection, 3 times"),
        ([stalled] * 9, "the server did not answer within 1.5 seconds, 3 times"),
        ([status(400)], "the server answers with status 400 (error 400)"),
        ([status(413, body="too large")], "the server answers with status 413"),
        ([status(307, ("Location", "/v1/models"))], "the server answers with status 307 (error 307)"),
        ([status(422, body={"detail": "/home/ann/x.png\x1b[31m"})], "the server answers with status 422 (…/x.png[31m)"),
        ([says(b"<html>")], "the server's answer is no JSON"),
        ([says(b"[" * 100_000)], "the server's answer is no JSON"),
        ([says(b"\xff\xfe")], "the server's answer is no JSON"),
        ([says(b"[]")], "the server's answer does not have one choice"),
        ([says(b'{"choices": []}')], "the server's answer does not have one choice"),
        ([says(b'{"choices": [{}, {}]}')], "the server's answer does not have one choice"),
        ([says(b'{"choices": [7]}')], "the server's answer has no text"),
        ([says(b'{"choices": [{"message": {"content": ["A dog."]}}]}')], "the server's answer has no text"),
        ([says(b'{"choices": [{"message": {"content": null}}]}')], "the server's answer has no text"),
        ([says(b'{"choices": [{"finish_reason": "content_filter"}]}')], "the server's filter withheld the caption"),
        ([says(b'{"choices": [{"message": {"content": "  "}}]}')], "the model wrote nothing"),
        ([says(json.dumps({"choices": [{"message": {"content": "a" * 40_000}}]}).encode())], "40,000 characters long"),
        ([says(b" " * 2_000_000)], "more than a caption: more than 1,048,576 bytes"),
        ([says(b"", ("Content-Encoding", "gzip"))], "more than a caption: it is packed"),
    ],
)  # fmt: skip
def test_a_failure_that_does_not_pass_is_its_rows_alone(server: ChatServer, faults: list[Fault], reason: str) -> None:
    server.faults[42] = list(faults)
    found, errors = ask(asking(server), WIDTHS)
    assert found == [None if size == 42 else f"A picture {size} wide." for size in WIDTHS]
    assert [error is not None for error in errors] == [size == 42 for size in WIDTHS]
    assert reason in str(errors[2])


def test_halves_of_characters_and_wrong_counts_do_no_harm(server: ChatServer) -> None:
    server.faults[42] = [
        says(b'{"choices": [{"message": {"content": "A \\ud83d dog."}}], "usage": {"completion_tokens": "x"}}')
    ]
    found, errors = ask(asking(server), WIDTHS)
    assert (found[2], errors[2]) == ("A ? dog.", None)


def test_a_server_that_asks_for_rest_is_left_alone_by_all(server: ChatServer) -> None:
    async def fails_later(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return await status(500)(request)

    server.faults = {40: [status(429, ("Retry-After", "1"))], 41: [fails_later]}
    assert ask(asking(server), [40, 41])[0] == captions([40, 41])
    times = {
        size: [question.time for question in server.questions if question.image.width == size] for size in (40, 41)
    }
    assert times[40][1] - times[40][0] >= 1.0
    assert times[41][1] - times[40][0] >= 1.0, "it failed for another reason, and might have come back sooner"


def test_a_server_that_wants_too_long_a_rest_ends_the_call(server: ChatServer) -> None:
    server.faults[41] = [status(429, ("Retry-After", "3000"))]
    with pytest.raises(CheckpointError, match=r"wants no request for the next 3,000 seconds"):
        ask(asking(server), WIDTHS)


def test_a_server_that_never_stops_asking_for_rest_is_given_up_for_the_row(server: ChatServer) -> None:
    server.faults[41] = [status(429)] * 1000
    found, errors = ask(asking(server), [41])
    assert found == [None]
    assert "status 429" in str(errors[0])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401), r"the server wants a key\. To do: set OPENAI_API_KEY \(status 401\)"),
        (status(403), r"the server wants a key.*403"),
        (status(404), r"the server has no model 'org/some', or is not at this base_url"),
        (status(429, body={"error": {"code": "insufficient_quota"}}), "the account's quota is used up"),
    ],
)
def test_what_no_row_can_get_around_ends_the_call(server: ChatServer, fault: Fault, message: str) -> None:
    server.faults[42] = [fault]
    with pytest.raises(CheckpointError, match=message):
        ask(asking(server), WIDTHS)


def test_nobody_there_ends_the_call_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        captioner = Captioner("org/some", engine="openai", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        start = time.monotonic()
        with pytest.raises(CheckpointError, match="cannot be reached: is it running, and is base_url right"):
            ask(captioner, WIDTHS)
        assert time.monotonic() - start < 5


def test_an_address_that_swallows_everything_ends_the_call_at_once() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody takes these up, so further ones are not even refused
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        captioner = Captioner("org/some", engine="openai", base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1")
        start = time.monotonic()
        with pytest.raises(CheckpointError, match="cannot be reached"):
            ask(captioner, WIDTHS)
        assert time.monotonic() - start < 5


def test_what_is_meant_for_openai_is_kept_from_other_servers(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    assert ask(asking(server), [40])[0] == captions([40])
    assert all("secret" not in str(headers) for headers in server.headers)


def test_a_server_that_goes_away_ends_the_call() -> None:
    with ChatServer(width) as server:
        captioner = asking(server)
        assert ask(captioner, [40])[0] == captions([40])
    with pytest.raises(CheckpointError, match="cannot be reached"):
        ask(captioner, [41])


def test_many_failures_without_a_caption_between_them_end_the_call(server: ChatServer) -> None:
    server.faults = {size: [status(400, body={"detail": "no such field: top_k"})] for size in range(40, 140)}
    with pytest.raises(CheckpointError, match=r"20 pictures in a row got no caption .*no such field: top_k"):
        ask(asking(server), list(range(40, 140)))
    assert len(server.questions) < 50


def test_a_model_that_the_server_does_not_list_is_offered_the_nearest() -> None:
    models = [{"id": "org/same", "owned_by": "vllm"}, {"id": 7}, "nonsense"]
    with ChatServer(width, models=models) as server:
        with pytest.raises(CheckpointError, match=r"unknown model 'org/some': did you mean 'org/same'\?"):
            ask(asking(server), [40])
        assert not server.questions
    with ChatServer(width, models=[{"id": "org/same", "owned_by": "somebody"}]) as server:
        assert ask(asking(server), [40])[0] == captions([40]), "others load what they are asked for"


@pytest.mark.parametrize("fault", [status(500), status(405), cut, stalled, says(b"<html>"), says(b'{"data": 7}')])
def test_a_server_that_cannot_list_its_models_may_still_caption(fault: Fault) -> None:
    with ChatServer(width, models=fault) as server:
        assert ask(asking(server), [40])[0] == captions([40])


def test_a_server_that_wants_a_key_for_its_list_is_not_asked_further() -> None:
    with ChatServer(width, models=status(401)) as server:
        with pytest.raises(CheckpointError, match="wants a key"):
            ask(asking(server), [40])
        assert not server.questions


# The key


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    server.key = "sesame-0123456789"
    with pytest.raises(CheckpointError, match="wants a key"):
        ask(asking(server), [40])
    engine.unload()
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-0123456789")
    with pytest.raises(CheckpointError, match="refuses the key in OPENAI_API_KEY") as caught:
        ask(asking(server), [40])
    assert "wrong-0123456789" not in str(caught.value)
    engine.unload()
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    captioner = asking(server)
    assert ask(captioner, [40])[0] == captions([40])
    assert server.key.encode() not in pickle.dumps(captioner) + repr((captioner, captioner.describe())).encode()
    server.faults[41] = [status(400, body={"error": {"message": f"you sent {server.key}"}})]
    assert server.key not in str(ask(captioner, [41])[1])


def test_a_key_that_can_be_none_is_refused_unseen(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "two words\n")
    with pytest.raises(UsageError, match="OPENAI_API_KEY holds characters that no key has") as caught:
        ask(asking(server), [40])
    assert "words" not in str(caught.value)


# Callers


def test_it_works_inside_a_running_event_loop(server: ChatServer) -> None:
    async def inside() -> list[str | None]:
        return ask(asking(server), [40, 41])[0]

    assert asyncio.run(inside()) == captions([40, 41])


def test_two_threads_may_ask_at_once(server: ChatServer) -> None:
    captioner, found = asking(server), {}

    def work(start: int) -> None:
        found[start] = ask(captioner, list(range(start, start + 10)))[0]

    threads = [threading.Thread(target=work, args=(start,)) for start in (40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {start: captions(list(range(start, start + 10))) for start in (40, 60)}


def test_letting_go_of_the_engine_ends_its_thread(server: ChatServer) -> None:
    def threads() -> set[threading.Thread]:
        gc.collect()
        return {thread for thread in threading.enumerate() if thread.name == "openai-engine"}

    others = threads()
    ask(asking(server), [40])
    assert len(threads() - others) == 1
    engine.unload()
    assert threads() <= others


def test_an_error_in_the_call_leaves_no_request_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "PATIENCE", Patience())
    with ChatServer(width, delay=8.0) as server:
        server.faults[40] = [status(401)]
        start = time.monotonic()
        with pytest.raises(CheckpointError):
            ask(asking(server), WIDTHS)
        assert time.monotonic() - start < 6, "the others were not waited for"


def test_large_pictures_go_as_jpeg_and_others_as_png() -> None:
    assert data_url(Image.new("RGB", (2000, 2000))).startswith("data:image/png;base64,")
    assert data_url(Image.new("RGB", (2001, 2000))).startswith("data:image/jpeg;base64,")


def test_without_the_package_the_extra_is_named(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"needs the package openai\. To do: pip install 'hf-mllm-aug\[openai\]'"):
        ask(asking(server), [40])
