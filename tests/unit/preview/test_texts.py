"""Captions as HTML: escaped, with marks for what cannot be seen, folded where they are long."""

from __future__ import annotations

import re

import pytest

from hf_mllm_aug.preview.texts import FOLD, LONGEST, show, signed, split_tail


def test_markup_in_a_caption_is_text() -> None:
    assert show("<script>alert('x')</script> & co").start == (
        "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; co"
    )


@pytest.mark.parametrize("code", [0x00, 0x1B, 0x200B, 0x200F, 0x202E, 0x2066, 0xFEFF, 0xE0041])
def test_characters_that_cannot_be_seen_are_named(code: int) -> None:
    shown = signed(f"a{chr(code)}b")
    assert f"U+{code:04X}</span>b" in shown
    assert chr(code) not in shown


def test_what_scripts_and_emoji_need_stays() -> None:
    family = "👩\u200d👧 می\u200cخواهم é ❤\ufe0f"
    assert signed(family) == family


def test_matches_are_marked_in_any_case_and_as_they_are_written() -> None:
    assert show("A Fox, a fox (fox)", "fox (").start == "A Fox, a <mark>fox (</mark>fox)"
    assert show("A Fox & a <fox>", "FOX").start == "A <mark>Fox</mark> &amp; a &lt;<mark>fox</mark>&gt;"


def test_a_long_caption_is_folded_and_nothing_of_it_lost() -> None:
    text = "".join(f"{i} " for i in range(2000))
    shown = show(text)
    assert str(shown.start) + str(shown.rest) == text
    assert (len(shown.start), shown.hidden, shown.left_out) == (FOLD, len(text) - FOLD, 0)


def test_an_endless_caption_is_cut_and_it_is_said_how_much() -> None:
    shown = show("x" * (LONGEST + 5))
    assert shown.left_out == 5
    assert len(shown.start) + len(shown.rest) == LONGEST


def test_short_captions_are_not_folded_for_a_few_letters() -> None:
    assert show("x" * (FOLD + 20)).rest == ""


def test_the_tail_is_what_follows_the_kept_sentence() -> None:
    assert split_tail('He said "no." Then  he left.', 'He said "no') == ('."', " Then he left.")
    assert split_tail("Another text.", "A caption") == ("", "Another text.")


def test_a_query_is_no_pattern() -> None:
    assert re.findall("<mark>(.*?)</mark>", show("a.b axb", "a.b").start) == ["a.b"]
