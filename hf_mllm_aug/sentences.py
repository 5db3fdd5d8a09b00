"""Where the first sentence of a caption ends, decided so that a decoder may stop there.

The boundaries are `sentencex`'s (Wikimedia, some 300 languages), asked in one particular way: for each stop in turn,
about the text up to the end of the word after it, and no further. Asking about whole texts would be simpler, but then a
quote, a bracket or the second mark of a list far behind a stop could still undo it, and nothing short of the end of
generation would prove that a sentence is over. With one word of look-ahead the answer for a stop is final as soon as
that word is.

What is added to `sentencex`, each for text that captions have:

- A stop within quotes or brackets ends nothing, but for the last one before a closing quote. A quote or bracket that
  never closes is an ordinary character.
- A blank line ends the sentence; a single line break is a space; zero-width spaces are dropped (the paper's MiniGPT-4
  clean-up drops both). Joiners are kept, for emoji and several scripts need them.
- A stop with no word before it, or only a list number (``1.``, ``b.``), is no end.
- A stop inside a web address, a file name or a dotted abbreviation (``Node.JS``, ``U.S.A``) is no end.
- English: titles (``Mr. Will Smith``, ``Dr. Who``) and abbreviations of amount (``approx. 5``) go on.
"""

from __future__ import annotations

import functools
import re

import sentencex

# Unicode's Sentence_Break=STerm|ATerm, as sentencex has it (a test compares the two for every code point).
_TERMINATORS = (
    "!.?\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b\u1362\u1367\u1368"
    "\u166e\u1735\u1736\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d\u1b7e\u1c3b\u1c3c\u1c7e\u1c7f"
    "\u2024\u203c\u203d\u2047-\u2049\u2e2e\u2e3c\u2e53\u2e54\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf"
    "\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61\U00010a56\U00010a57"
    "\U00010f55-\U00010f59\U00010f86-\U00010f89\U00011047\U00011048\U000110be-\U000110c1\U00011141-\U00011143\U000111c5"
    "\U000111c6\U000111cd\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U0001144b\U0001144c"
    "\U000115c2\U000115c3\U000115c9-\U000115d7\U00011641\U00011642\U0001173c-\U0001173e\U00011944\U00011946\U00011a42"
    "\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7\U00011ef8\U00011f43\U00011f44\U00016a6e\U00016a6f"
    "\U00016af5\U00016b37\U00016b38\U00016b44\U00016e98\U0001bc9f\U0001da88"
)

# Stops that some languages have besides; `sentencex` is asked which ones count in the language at hand.
_LOCAL_TERMINATORS = ";\u037e:\u055c\u055e\u104f"

# What `drop_stop` takes off. Question and exclamation marks belong to what is said and stay.
_FULL_STOPS = ".…。．｡﹒․।॥۔։።။᠃᠉꓿⸼"
_CLOSERS = "\"'”’»›)]}】』」》）］｝*_"

_BLANKS = re.compile("[\\s\u200b\u2060\ufeff]+")
_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028]")
_UNTIDY = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029\u200b\u2060\ufeff]")
_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff]")

# A word of a script written without spaces is taken to be one character: `sentencex` needs no more of it.
_UNSPACED_RANGES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
_UNSPACED = re.compile(f"[{_UNSPACED_RANGES}]")
# `sentencex` looks 30 bytes ahead, so more of a long "word" (a URL, a line of Thai) changes nothing.
_LONGEST_WORD = 40
# Captions are shorter; the bound keeps a page of text without a boundary from taking quadratic time.
_LONGEST_HEAD = 800
_AHEAD = re.compile(
    rf"(?P<closers>[{re.escape(_CLOSERS)}]*)(?P<gap>\s*)"
    rf"(?:[{_UNSPACED_RANGES}]|[^\s{_UNSPACED_RANGES}]{{1,{_LONGEST_WORD}}})?"
)

# Opening characters, not counting emoticons, inch marks, apostrophes and elisions ('90s, rock 'n' roll, get 'em).
_OPENING = re.compile(
    r"(?<![:;=\-])[(\[{（【［｛]|[“„«‹「『《]|(?<![^\s(\[{])\"(?=\S)"
    r"|(?<![^\s(\[{\"“])['‘](?!(?:em|til|tis|twas|n|cause|round|bout)\b)(?=[^\W\d_])"
)
_CLOSING = {
    opener: re.compile(closer)
    for opener, closer in {
        "(": r"\)", "[": r"\]", "{": r"\}", "（": "[）)]", "【": "】", "［": "］", "｛": "｝",
        "“": '[”"]', "„": '[“”"]', "«": "»", "‹": "›", "「": "」", "『": "』", "《": "》", '"': '"',
        "'": r"(?<=\S)['’](?![^\W_])", "‘": r"(?<=\S)’(?![^\W_])",
    }.items()
}  # fmt: skip

# No mark up to the first full stop, and behind that nothing or a blank and a whole word.
_PLAIN = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9 ,-]*)(?:\.?\Z|\. (?P<word>[A-Za-z]{1,30})(?: |\Z))")
_LIST_NUMBER = re.compile(r"\d{1,3}|[A-Za-z]|[ivxIVX]{2,4}")
_WORD_CHARACTER = re.compile(r"[^\W_]")
_MARKER = re.compile(r"\s*(?:[•◦▪▫■□●○★☆➤➢▶►*+–—-]\s+|\(?(?:\d{1,3}|[a-z]|[ivx]{2,4})[.)]{1,2}\s+)", re.IGNORECASE)
_LONE_LETTER = re.compile(r"(?<![^\W_])[^\W\d_]$")
_ADDRESS = re.compile(
    r"://|^\W*www\.|@[\w.-]+\.\w|\.(?:com|org|net|edu|gov|io|js|jpe?g|png|gif|webp|svg|bmp|tiff?|pdf|html?)\b",
    re.IGNORECASE,
)
_TITLES = frozenset(("Mr", "Mrs", "Ms", "Prof", "Sgt", "Capt"))
_AMOUNTS = frozenset(("approx", "vol", "p", "pp", "est", "min", "max"))
_NAME_BEFORE = re.compile(r"\s[A-Z][\w'’-]+ $")
_DOTTED = re.compile(r"(?<![^\W\d_])(?<!\.)[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+$")


def tidy(text: str) -> str:
    r"""Put a caption on one line: line breaks become spaces, zero-width spaces go, the ends are stripped.

    >>> tidy("A dog\n on\u200b grass ")
    'A dog on grass'
    """
    if text.isprintable() or _UNTIDY.search(text) is None:
        return text.strip()
    return _BLANKS.sub(_blank, text).replace("\n", " ").strip()


def first_paragraph(text: str) -> tuple[str, bool]:
    r"""Tidy a text up to its first blank line that has a word before it.

    Args:
        text: A caption or what a model has written so far.

    Returns:
        The paragraph, its left end stripped, and whether a blank line ended it: then more text changes nothing.

    >>> first_paragraph("A dog\n on grass.\n\nThe dog")
    ('A dog on grass.', True)
    """
    if text.isprintable() or _UNTIDY.search(text) is None:
        return text.lstrip(), False
    lines = _BLANKS.sub(_blank, text).lstrip()
    end = lines.find("\n")
    while end >= 0:
        if _WORD_CHARACTER.search(lines, 0, end):
            return lines[:end].replace("\n", " "), True
        end = lines.find("\n", end + 1)
    return lines.replace("\n", " "), False


def first_sentence(text: str, language: str = "en") -> str:
    """Cut a text to its first sentence, the full stop dropped. Not idempotent by itself: `shear` is.

    Args:
        text: A caption.
        language: An ISO 639 code, as for `find_end`.

    >>> first_sentence("A view of St. Peter's. It")
    "A view of St. Peter's"
    """
    quick = _quick_sentence(text, language) if text.isascii() else None
    if quick is not None:
        return quick
    paragraph = first_paragraph(text)[0].rstrip()
    return drop_stop(paragraph[: find_end(paragraph, language)])


def find_end(text: str, language: str = "en", *, complete: bool = True) -> int | None:
    """Find the end of the first sentence of a tidy paragraph, its stop and closing quotes included.

    Args:
        text: A paragraph as `first_paragraph` gives it.
        language: An ISO 639 code; `sentencex` falls back to related languages and at last to English.
        complete: Whether the paragraph is all there is. If not, an end is returned only when no continuation
            could move it.

    Returns:
        An index into ``text`` (characters); without a boundary its length if ``complete``, else None.

    >>> find_end("A view of St. Peter's. It"), find_end("A view of St. Peter's. It", complete=False)
    (22, None)
    >>> find_end("A view of St. Peter's. It ", complete=False)
    22
    """
    first = _WORD_CHARACTER.search(text)
    if first is None:
        return len(text) if complete else None
    word = first.start()
    hints = _hints(language, text.isascii())
    never_closed: set[str] = set()
    at = 0
    while True:
        hint = hints.search(text, at)
        if hint is None:
            return len(text) if complete else None
        start = hint.start()
        opener = text[start]
        if opener in _CLOSING:
            at = start + 1
            if opener in never_closed or not _OPENING.match(text, start):
                continue
            closing = _CLOSING[opener].search(text, at)
            if closing is None:
                if not complete:
                    return None
                never_closed.add(opener)
                continue
            start, stop = _last_stop(text, at, closing.start(), language)
            at = closing.end()
            if start == stop:
                continue
        else:
            at = stop = start + 1 if _is_plain(text, start) else _end_of_run(text, start, language)
        if start <= word or (start - word <= 4 and _LIST_NUMBER.fullmatch(text, word, start)):
            continue
        closed, next_word, seen = _look_ahead(text, stop)
        if next_word == seen:
            return closed if complete else None
        if (
            not complete
            and seen == len(text)
            and seen - next_word < _LONGEST_WORD
            and not _UNSPACED.match(text[next_word])
        ):
            return None
        end = _boundary(text, start, stop, closed, next_word, seen, language)
        if end is not None:
            return end


def first_sentence_end(text: str, language: str = "en") -> int | None:
    """Say where the first sentence ends if what has been written so far proves it.

    A decoder may stop as soon as this is not None: for every continuation ``c``, ``shear(text + c) == shear(text)``
    with the rule ``"sentence"``. The proof needs the whole word after the stop and the blank behind it.

    Args:
        text: What a model has written so far.
        language: An ISO 639 code, as for `shear`.

    Returns:
        An index into ``text`` (characters) just behind the sentence, its stop and closing quotes included, or None
        while a continuation could still move it.

    >>> first_sentence_end("A dog at 5 p.m. on St. "), first_sentence_end("A dog runs. The")
    (None, None)
    >>> first_sentence_end("A dog runs. The ")
    11
    """
    paragraph, ended = first_paragraph(text)
    end = find_end(paragraph, language, complete=ended)
    return None if end is None else _index_before_tidying(text, end)


def drop_stop(text: str) -> str:
    """Take the full stop off a sentence's end, also from inside closing quotes; a dotted abbreviation keeps its own.

    Args:
        text: A sentence without blanks around it.

    Returns:
        The sentence without its full stop or ellipsis; other marks stay.

    >>> drop_stop("A red bus."), drop_stop('He said "Go."'), drop_stop("A train at 5 p.m."), drop_stop("Really?")
    ('A red bus', 'He said "Go"', 'A train at 5 p.m.', 'Really?')
    """
    while text and not text[-1].isalnum():
        body = text.rstrip(_CLOSERS + " ")
        if not body or body[-1] not in _FULL_STOPS:
            break
        head = body.rstrip(_FULL_STOPS + " ")
        if "." in head[-24:] and _DOTTED.search(head[-24:]):
            head += "."
        shorter = (head + text[len(body) :]).strip()
        if shorter == text:
            break
        text = shorter
    return text


def _quick_sentence(text: str, language: str) -> str | None:
    """`first_sentence` of a plain text in a third of the time; None where the text is not plain enough to be sure."""
    plain = _PLAIN.match(text)
    if plain is None:
        return None
    stop = plain.end("head")
    if plain.end("word") < 0:
        return text[:stop].rstrip()
    if stop < 5 or not (text[stop - 3 : stop].isalpha() and text[stop - 3 : stop].islower()):
        return None
    if text[text.rfind(" ", 0, stop) + 1 : stop] in _TITLES:
        return None
    at = 0 if stop <= _LONGEST_HEAD else stop - _LONGEST_HEAD
    ahead = len(sentencex.segment(language, text[at : plain.end("word")])[0]) + at
    return text[:stop] if ahead in (stop + 1, stop + 2) else None


@functools.lru_cache(maxsize=64)
def _terminators(language: str) -> str:
    local = (mark for mark in _LOCAL_TERMINATORS if len(sentencex.segment(language, f"ab{mark} Cd ef")) > 1)
    return _TERMINATORS + "".join(local)


@functools.lru_cache(maxsize=64)
def _hints(language: str, ascii_only: bool) -> re.Pattern[str]:
    """Any character that may end a sentence or open a quote; one set, so that `re` scans at full speed."""
    marks = _terminators(language) + re.escape("".join(_CLOSING))
    # An astral range in the set costs ASCII texts, nearly all captions, a third of the speed.
    return re.compile(
        "[" + ("".join(mark for mark in marks if mark.isascii() and mark != "-") if ascii_only else marks) + "]"
    )


@functools.lru_cache(maxsize=64)
def _runs(language: str) -> re.Pattern[str]:
    """A run of stops; a spaced one (". . .", "! !") is one stop, unless the last of it begins a word (".net")."""
    single = f"[{_terminators(language)}]"
    return re.compile(rf"{single}+(?:[ \t]+{single}+(?=[\s{re.escape(_CLOSERS)}]|$))*")


def _last_stop(text: str, start: int, end: int, language: str) -> tuple[int, int]:
    """The run of stops just before a closing quote, blanks between them allowed; an empty span if there is none."""
    stop = first = start + len(text[start:end].rstrip())
    runs = _runs(language)
    while first > start and runs.match(text, first - 1, first):
        first -= 1
    return first, stop


def _end_of_run(text: str, start: int, language: str) -> int:
    run = _runs(language).match(text, start)
    return run.end() if run else start + 1


def _is_plain(text: str, start: int) -> bool:
    """Whether the stop at ``start`` is one followed by a single space and an ASCII letter or digit, as most are."""
    return text[start + 1 : start + 2] == " " and (after := text[start + 2 : start + 3]).isalnum() and after.isascii()


def _look_ahead(text: str, stop: int) -> tuple[int, int, int]:
    """What follows a stop: where its closing marks end, where the next word starts, and where that word ends."""
    if text.isascii() and _is_plain(text, stop - 1):
        seen = text.find(" ", stop + 1, stop + 1 + _LONGEST_WORD)
        seen = min(len(text), stop + 1 + _LONGEST_WORD) if seen < 0 else seen
        if text[stop + 1 : seen].isprintable():  # no tab ends the word before the blank
            return stop, stop + 1, seen
    ahead = _AHEAD.match(text, stop)
    if ahead is None:
        return stop, stop, stop
    return ahead.end("closers"), ahead.end("gap"), ahead.end()


def _boundary(text: str, start: int, stop: int, closed: int, next_word: int, seen: int, language: str) -> int | None:
    """Where the sentence with the stop at ``text[start:stop]`` ends, or None when it goes on."""
    mark = text[start:stop]
    if closed == next_word:
        if closed > stop and text[closed - 1] in "」』":
            return None  # 「はい。」と言った: what was said is part of a sentence
        if closed == stop and mark == "." and _is_inside_token(text, start, seen):
            return None
    # A list marker makes one sentence of all that stands in its item.
    marker = _MARKER.match(text)
    at = max(marker.end() if marker and marker.end() <= start else 0, start - _LONGEST_HEAD)
    for piece in _segments(language, text[at:seen]):
        at += len(piece)
        if at >= stop:
            break
    if at < stop or at > next_word:
        return None
    if mark == "." and language == "en":
        first = text.rfind(" ", max(0, start - _LONGEST_WORD), start) + 1
        last_word = text[first:start].lstrip("\"'“(")
        if last_word in _TITLES or (
            last_word == "Dr" and not _NAME_BEFORE.search(text, max(0, first - _LONGEST_WORD), first)
        ):  # "Rodeo Dr. It"
            return None
        if text[next_word].isdigit() and last_word.lower() in _AMOUNTS:
            return None
    # A bracket left over behind the stop is no part of the sentence; Markdown's asterisks are.
    return closed if at >= closed or not text[stop:closed].strip("*_") else at


def _is_inside_token(text: str, start: int, end: int) -> bool:
    """Whether a full stop with no blank behind it is part of a dotted abbreviation or of an address."""
    if _LONE_LETTER.search(text, max(0, start - 2), start):
        return True
    return (
        _ADDRESS.search(
            text[max(text.rfind(" ", max(0, start - _LONGEST_WORD), start) + 1, start - _LONGEST_WORD, 0) : end]
        )
        is not None
    )


def _segments(language: str, text: str) -> list[str]:
    try:
        pieces: list[str] = sentencex.segment(language, text)
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can carry and UTF-8 cannot
        pieces = sentencex.segment(language, re.sub("[\ud800-\udfff]", "\ufffd", text))
    return pieces


def _blank(run: re.Match[str]) -> str:
    r"""What a run of blanks becomes: ``\n`` for a blank line, a space for a line break, else its visible blanks."""
    breaks = len(_LINE_BREAK.findall(run[0]))
    if breaks > 1 or "\u2029" in run[0]:
        return "\n"
    return " " if breaks else _ZERO_WIDTH.sub("", run[0])


def _index_before_tidying(text: str, end: int) -> int:
    made = taken = 0
    for run in _BLANKS.finditer(text):
        if made + run.start() - taken >= end:
            break
        made += run.start() - taken + (len(_blank(run)) if run.start() else 0)
        taken = run.end()
    return taken + end - made
