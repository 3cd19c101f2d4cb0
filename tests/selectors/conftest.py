"""Answers as a conversation hands them to selectors."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from flmm.selectors import Answer


def refuse(*args: Any) -> Any:
    raise AssertionError("this selector must not ask for that")


@pytest.fixture
def build_answer() -> Callable[..., Answer]:
    """Factory of answers: words as tokens, a reply to any further question."""

    def build(text: str, reply: str | None = None, states: Any = None) -> Answer:
        tokens = [match.span() for match in re.finditer(r"\s?\w+|[^\w\s]", text)]
        read = refuse if states is None else lambda: states
        return Answer(text, tokens, read, refuse if reply is None else lambda question: reply)

    return build
