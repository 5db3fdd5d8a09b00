"""Failures as advice: what went wrong and what to do next, on one line. The only place that words them."""

from __future__ import annotations

import os

from hf_mllm_aug import hub_calls
from hf_mllm_aug.errors import AugError, UsageError
from hf_mllm_aug.safe_text import plain

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def exit_code(error: BaseException) -> int:
    """The exit code of a failure.

    >>> exit_code(UsageError("no such rule")), exit_code(OSError("disk full")), exit_code(KeyboardInterrupt())
    (2, 1, 130)
    """
    if _is_interruption(error):
        return INTERRUPTED
    if isinstance(error, UsageError):
        return WRONG_USAGE
    return int(error.exit_code) if _is_of_parsing(error) else FAILED  # type: ignore[attr-defined]


def explain(error: BaseException) -> str:
    r"""A failure as one line.

    >>> explain(FileNotFoundError(2, "No such file or directory", "photos"))
    'photos: No such file or directory.'
    >>> explain(RuntimeError("two\nlines"))
    'unexpected RuntimeError: two lines. Run again with --debug to see where, and report it if it is ours.'
    """
    return plain(_explain(error))


def _explain(error: BaseException) -> str:
    if _is_interruption(error):
        return "interrupted; nothing half-made was kept."
    if isinstance(error, AugError):
        return str(error)
    if _is_of_parsing(error):
        context = getattr(error, "ctx", None)
        see = f" See: {context.command_path} --help" if context else ""
        return f"{error.format_message()}{see}"  # type: ignore[attr-defined]
    if hub_calls.status_of(error) is not None or _is_of_the_line(error):
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"{hub_calls.explain(error, 'that repository', endpoint)}."
    if isinstance(error, OSError):
        what = error.strerror or _first_line(error)
        return f"{error.filename}: {what}." if error.filename else f"{what.rstrip('.')}."
    return (
        f"unexpected {type(error).__name__}: {str(error).rstrip('.')}. "
        "Run again with --debug to see where, and report it if it is ours."
    )


def _is_interruption(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort"


def _is_of_parsing(error: BaseException) -> bool:
    """Whether Typer raised it over the command line; by form, for older versions raise click's own classes."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _is_of_the_line(error: BaseException) -> bool:
    """Whether the HTTP client raised it; asked by name first, for most failures never loaded the client."""
    return type(error).__module__.startswith(("httpx", "httpcore")) and hub_calls.is_connection_error(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
