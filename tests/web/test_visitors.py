"""Who is remembered, and for how long."""

from __future__ import annotations

import pytest

from flmm.apps.web.pictures import draw_samples
from flmm.apps.web.requests import Limits
from flmm.apps.web.visitors import GRACE_S, Visitor, Visitors
from flmm.conversation import Chat


@pytest.fixture(scope="module")
def chat(inferencer) -> Chat:
    return inferencer.chat(draw_samples()[0].image)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_finds_its_own_visitor(chat: Chat) -> None:
    visitors = Visitors(Limits())
    anna, ben = Visitor(chat, "a.png"), Visitor(chat, "b.png")
    visitors.put("anna", anna)
    visitors.put("ben", ben)
    assert visitors.find("anna") is anna and visitors.find("ben") is ben
    assert visitors.find("eve") is None


def test_the_idle_are_dropped(chat: Chat) -> None:
    clock = Clock()
    visitors = Visitors(Limits(idle_s=60), clock)
    anna, ben = Visitor(chat, "a.png"), Visitor(chat, "b.png")
    visitors.put("anna", anna)
    visitors.put("ben", ben)
    clock.now = 50
    assert visitors.find("ben") is ben
    clock.now = 61
    visitors.drop_idle()
    assert len(visitors) == 1 and anna.gone and anna.stop.is_set() and not ben.gone
    assert visitors.find("anna") is None


def test_a_closed_tab_is_forgotten_soon_and_a_loaded_one_is_not(chat: Chat) -> None:
    clock = Clock()
    visitors = Visitors(Limits(idle_s=1000), clock)
    for key in ("anna", "ben"):
        visitors.put(key, Visitor(chat, key))
        visitors.leave(key)
    clock.now = GRACE_S - 1
    assert visitors.find("ben") is not None  # the page was only loaded again
    clock.now = GRACE_S + 1
    assert visitors.find("anna") is None and visitors.find("ben") is not None


def test_who_was_idle_longest_makes_room(chat: Chat) -> None:
    visitors = Visitors(Limits(max_visitors=2))
    for key in "ab":
        visitors.put(key, Visitor(chat, key))
    visitors.find("a")
    visitors.put("c", Visitor(chat, "c"))
    assert visitors.find("b") is None
    assert visitors.find("a") is not None and visitors.find("c") is not None


def test_a_new_picture_ends_the_conversation_before_it(chat: Chat) -> None:
    visitors = Visitors(Limits())
    before, after = Visitor(chat, "1.png"), Visitor(chat, "2.png")
    visitors.put("anna", before)
    visitors.put("anna", after)
    assert before.gone and before.stop.is_set() and visitors.find("anna") is after
    visitors.stop_all()
    assert after.stop.is_set() and not after.gone and len(visitors) == 1
