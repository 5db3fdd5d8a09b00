"""What is cut from a model's answer: by the data of each preset, and while the answer still grows."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hf_mllm_aug.captioners import PRESETS, CleanUp
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.shearing import shear

ZERO_WIDTH = "\u200b"


def default(name: str) -> CleanUp:
    return PRESETS[name].variants["default"].clean_up


def paper(name: str) -> CleanUp:
    return PRESETS[name].variants["paper"].clean_up


@pytest.mark.parametrize(
    ("name", "answer", "caption"),
    [
        ("minigpt-4", " A red bus. It is big.###Human: And this?###", "A red bus. It is big."),
        ("minigpt-4", "Assistant: A red bus.", "A red bus."),
        ("minigpt-4", "\n Assistant:  Assistant: A red bus.\n", "A red bus."),
        ("minigpt-4", f"A red{ZERO_WIDTH} bus{ZERO_WIDTH}", "A red bus"),
        ("minigpt-4", "A red bus.\nIt is big.", "A red bus.\nIt is big."),  # shearing reads line breaks
        ("minigpt-4", "###", ""),
        ("otter", " GPT: A red bus.<|endofchunk|>User: more", "A red bus."),
        ("otter", "<answer>A red bus", "A red bus"),  # the first word is glued to the mark, and kept
        ("otter", "A red bus <3", "A red bus <3"),
        ("qwen-vl", " A bus # 3.\n", "A bus # 3."),
        ("llava-1.5", " A view of St. Peter's. ", "A view of St. Peter's."),
    ],
)
def test_by_default_nothing_but_what_is_no_caption_is_cut(name: str, answer: str, caption: str) -> None:
    assert default(name)(answer) == caption


def released_minigpt_4(text: str) -> str:
    """The order of the released script."""
    text = text.split("###")[0].split(".")[0].split("Assistant:")[-1].strip()
    return text.replace("\n", "").replace(ZERO_WIDTH, "").strip()


def released_otter(text: str) -> str:
    """The released script on what follows the prompt, as far as it has no words that begin with ``<``."""
    return " ".join(text.split(" ")).split("<|endofchunk|>")[0].split(".")[0].strip()


def released_llava_and_qwen(text: str) -> str:
    return text.strip().split(".")[0].strip()


ORIGINALS = {
    "minigpt-4": released_minigpt_4,
    "otter": released_otter,
    "llava-1.5": released_llava_and_qwen,
    "tiny-llava": released_llava_and_qwen,
    "qwen-vl": released_llava_and_qwen,
}

PIECES = [
    "A dog",
    " ",
    "\n",
    "\n\n",
    "#",
    "##",
    "###",
    ".",
    ". It",
    "3.5",
    "!",
    ZERO_WIDTH,
    "Assistant:",
    "GPT:",
    "St.",
]
PIECES += ["<|endofchunk|>", "Human:", "犬。", "x"]
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.mark.parametrize("name", ORIGINALS)
@given(answer=ANSWERS)
def test_the_papers_variant_cuts_what_its_scripts_cut(name: str, answer: str) -> None:
    assert paper(name)(answer) == ORIGINALS[name](answer)


CLEAN_UPS = st.builds(
    CleanUp,
    stops=st.lists(st.sampled_from(["###", ".", "#x", "\n#", "!"]), max_size=2, unique=True).map(tuple),
    prefixes=st.lists(st.sampled_from(["Assistant:", "GPT:"]), max_size=2, unique=True).map(tuple),
    restarts=st.sampled_from([(), ("Assistant:",)]),
    dropped=st.sampled_from(["", ZERO_WIDTH, "\n"]),
)


@given(clean=CLEAN_UPS, answer=ANSWERS, more=ANSWERS)
def test_what_is_said_to_be_over_or_settled_stays_so(clean: CleanUp, answer: str, more: str) -> None:
    whole = clean(answer + more)
    if clean.is_over(answer):
        assert clean.is_over(answer + more)
        assert whole == clean(answer)
    elif (settled := clean.settled(answer)) is not None:
        assert whole.startswith(settled.rstrip())


@given(clean=CLEAN_UPS, answer=ANSWERS)
@example(clean=CleanUp(prefixes=("GPT:",), restarts=("Assistant:",)), answer="A dogAssistant:GPT:")
def test_a_caption_has_no_stop_and_no_prefix_and_is_clean_already(clean: CleanUp, answer: str) -> None:
    caption = clean(answer)
    if not clean.dropped:  # a stop may come about by what is dropped from within it
        assert not any(stop in caption for stop in clean.stops)
        assert clean(caption) == caption
    assert caption == caption.strip()
    assert not set(clean.dropped) & set(caption)


def test_text_that_may_yet_be_a_stop_is_not_settled() -> None:
    clean = CleanUp(stops=("###",), prefixes=("Assistant:",))
    assert clean.settled("A dog. #") is None
    assert clean.settled("A dog. # ") == "A dog. # "
    assert clean.settled(" Assis") is None
    assert clean.settled(" Assisted. ") == "Assisted. "
    assert CleanUp(restarts=("Assistant:",)).settled("A dog. It") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stops": "###"}, "stops='###' must be a tuple"),
        ({"stops": ("",)}, "none of them blank"),
        ({"prefixes": (" ",)}, "none of them blank"),
        ({"stops": (". ",)}, "the stop '. ' ends with white space"),
        ({"stops": (".",), "prefixes": ("Mr. Bot:",)}, "'Mr. Bot:' has a stop in it"),
        ({"prefixes": ("A", "A:")}, "'A' is the beginning of another"),
    ],
)
def test_rules_that_cannot_work_are_refused(arguments: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        CleanUp(**arguments)  # type: ignore[arg-type]


def test_shearing_reads_the_line_breaks_that_are_left() -> None:
    answer = "A dog on\ngrass\n\nIt runs"
    assert shear(default("minigpt-4")(answer)) == "A dog on grass"
    assert shear(paper("minigpt-4")(answer)) == "A dog ongrassIt runs", "the scripts glue words together"
