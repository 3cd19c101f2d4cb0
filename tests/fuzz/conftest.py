"""Fuzz tests: random and mutated inputs; none may end the process or be silently wrong.

``pytest -m fuzz --fuzz-seed 7 --fuzz-count 700`` judges 700 inputs in every test of this folder.
The ordinary suite judges the first few of seed 0. A failure names seed and number, and
``--fuzz-first NUMBER --fuzz-count 1`` repeats that input alone. A new test is marked ``fuzz``,
takes the fixture ``fuzz`` and calls ``fuzz.check(make, judge)``, or ``fuzz.check_in_children``
where an input could end the process (see ``tests/fuzz/harness.py``).
"""

import pytest

from tests.fuzz.harness import Fuzz


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """The inputs of this test."""
    seed, first, count = map(request.config.getoption, ("fuzz_seed", "fuzz_first", "fuzz_count"))
    return Fuzz(request.node.name, seed, first, count)
