"""Random inputs by number: the same seed and number give the same input, alone or among others.

An input is made by ``make(rng)`` and judged by ``judge(value)``, which raises where flmm did not
behave: a wrong value where there is an oracle, an exception that is not the promised one. Inputs
that could end a process or fill the memory are judged in forked children, many inputs to a child;
when a child dies, each of its inputs is judged again in a child of its own, so that the one that
kills is named even where the heap breaks later.
"""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Make = Callable[[random.Random], Any]
Judge = Callable[[Any], None]

CHILD_INPUTS = 250
INPUT_SECONDS = 30.0  # a child that judges one input for longer hangs
_DONE = -1


@dataclass(frozen=True)
class Fuzz:
    """The inputs of one test; the fixture ``fuzz`` gives it.

    Attributes:
        name: of the test; every test draws inputs of its own.
        seed, first, count: inputs ``first`` to ``first + count`` of a seed.
    """

    name: str
    seed: int
    first: int
    count: int

    @property
    def numbers(self) -> range:
        """Of the inputs to be judged."""
        return range(self.first, self.first + self.count)

    def draw(self, number: int) -> random.Random:
        """The source of all chance of one input."""
        return random.Random(f"{self.name} {self.seed} {number}")

    def check(self, make: Make, judge: Judge) -> None:
        """Judge every input in this process.

        Raises:
            AssertionError: one was not handled; names it, and how to repeat it.
        """
        for number in self.numbers:
            problem = self._judge(number, make, judge)
            if problem:
                self._fail(number, problem, make)

    def check_in_children(self, make: Make, judge: Judge, max_megabytes: int = 512) -> None:
        """Judge every input in child processes that may take so much more memory than this one.

        Raises:
            AssertionError: an input ended its process, hung, or was not handled.
        """
        limit = max_megabytes * 2**20
        for at in range(self.first, self.first + self.count, CHILD_INPUTS):
            numbers = range(at, min(at + CHILD_INPUTS, self.first + self.count))
            found = self._judge_in_child(numbers, make, judge, limit)
            if found is None:
                continue
            number, problem = found
            if problem is None:  # the child died: by which of its inputs?
                problem = "its process ended while this input was judged, but not by it alone"
                for each in numbers:
                    alone = self._judge_in_child([each], make, judge, limit)
                    if alone is not None:
                        number, problem = each, alone[1] or "it ends the process"
                        break
            self._fail(number, problem, make)

    def _judge(self, number: int, make: Make, judge: Judge) -> str:
        """What was wrong with an input's handling; "": nothing."""
        value = make(self.draw(number))
        try:
            judge(value)
        except MemoryError:
            return "it takes more memory than allowed"
        except BaseException:  # a failure of pytest's is no Exception
            return traceback.format_exc()
        return ""

    def _judge_in_child(
        self, numbers: Sequence[int], make: Make, judge: Judge, limit: int
    ) -> tuple[int, str | None] | None:
        """The first input that went wrong and why (``None``: the child died); or ``None``."""
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            os.close(reader)
            self._work_in_child(writer, numbers, make, judge, limit)
        os.close(writer)
        try:
            return _follow(reader, numbers[0])
        finally:
            os.close(reader)
            os.kill(child, signal.SIGKILL)  # it has ended, or hangs
            os.waitpid(child, 0)

    def _work_in_child(
        self, writer: int, numbers: Sequence[int], make: Make, judge: Judge, limit: int
    ) -> NoReturn:
        try:
            _bound_memory(limit)
            for number in numbers:
                os.write(writer, f"{number}\n".encode())
                problem = self._judge(number, make, judge)
                if problem:
                    os.write(writer, f"problem\n{problem}".encode())
                    break
            else:
                os.write(writer, f"{_DONE}\n".encode())
        finally:
            os._exit(0)

    def _fail(self, number: int, problem: str, make: Make) -> NoReturn:
        value = make(self.draw(number))
        raise AssertionError(
            f"{self.name}: input {number} of seed {self.seed}: {problem}\nThe input: "
            f"{value!r:.2000}\nRepeat it with: pytest -m fuzz -k {self.name} -n 0 "
            f"--fuzz-seed {self.seed} --fuzz-first {number} --fuzz-count 1"
        )


def _bound_memory(limit: int) -> None:
    """Let this process take so many bytes more than it has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + limit, hard))


def _follow(reader: int, number: int) -> tuple[int, str | None] | None:
    """Read what a child tells until it ends or hangs."""
    told = b""
    end = time.monotonic() + INPUT_SECONDS
    while True:
        if not select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
            return _last_number(told, number), f"it takes more than {INPUT_SECONDS:g} s"
        part = os.read(reader, 2**16)
        if not part:
            break
        told += part
        end = time.monotonic() + INPUT_SECONDS
    lines, found, problem = told.partition(b"problem\n")
    last = _last_number(lines, number)
    if found:
        return last, problem.decode()
    return None if last == _DONE else (last, None)


def _last_number(told: bytes, default: int) -> int:
    lines = told.split()
    return int(lines[-1]) if lines else default
