"""The harness sees what it is there to see."""

import os
import random
import re
import signal
import time

import numpy as np
import pytest

from tests.fuzz import harness
from tests.fuzz.harness import Fuzz

pytestmark = pytest.mark.fuzz


def make(rng: random.Random) -> int:
    return rng.randrange(10**9)


def make_judge(bad: int, action) -> harness.Judge:
    def judge(value: int) -> None:
        if value == bad:
            action()

    return judge


HANGS = "it takes more than 2 s"


def test_an_input_depends_on_seed_and_number_alone() -> None:
    few, many = Fuzz("name", 3, 5, 1), Fuzz("name", 3, 0, 9)
    assert make(few.draw(5)) == make(many.draw(5))
    others = [Fuzz("other", 3, 0, 9).draw(5), Fuzz("name", 4, 0, 9).draw(5), few.draw(6)]
    assert make(few.draw(5)) not in map(make, others)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "it ends the process"),
        (lambda: os._exit(0), "it ends the process"),
        (lambda: np.ones(10**9, np.uint8), "it takes more memory than allowed"),
        (lambda: 1 / 0, r"ZeroDivisionError: division by zero"),
        (lambda: pytest.fail("wrong"), "Failed: wrong"),
        (lambda: time.sleep(60), HANGS),
    ],
)
def test_the_input_that_breaks_a_child_is_named(action, message, monkeypatch) -> None:
    if message == HANGS:  # the others are judged in whatever time a busy machine takes
        monkeypatch.setattr(harness, "INPUT_SECONDS", 2)
    fuzz = Fuzz("name", 3, 0, 20)
    bad = make(fuzz.draw(7))
    way = re.escape("-k name -n 0 --fuzz-seed 3 --fuzz-first 7 --fuzz-count 1")
    with pytest.raises(
        AssertionError, match=rf"(?s)input 7 of seed 3: .*{message}.*The input: {bad}\n.*{way}"
    ):
        fuzz.check_in_children(make, make_judge(bad, action), max_megabytes=256)


def test_an_input_that_is_not_handled_is_named_in_this_process() -> None:
    fuzz = Fuzz("name", 3, 4, 20)
    judge = make_judge(make(fuzz.draw(9)), lambda: [][0])
    with pytest.raises(
        AssertionError, match=r"(?s)input 9 of seed 3: .*IndexError.*--fuzz-first 9"
    ):
        fuzz.check(make, judge)
    fuzz.check(make, make_judge(-1, os.abort))
    fuzz.check_in_children(make, make_judge(-1, os.abort))
