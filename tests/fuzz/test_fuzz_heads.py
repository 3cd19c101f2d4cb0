"""Heads of strangers: config.json mutated, then refused in one sentence or built."""

import json
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flmm.config import load_config
from flmm.sharing.exporting import build_without_reader_weights, export_checkpoint
from flmm.sharing.sharing import load_pretrained

pytestmark = pytest.mark.fuzz

TINY = Path(__file__).parents[2] / "configs/tiny/tiny_unet_sam_shapes.py"
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 64, 10**9, 10**30, -(10**30), 0.5, 1e308),
    *(
        "",
        "tiny",
        "owner/name",
        "/etc/passwd",
        "../x",
        "C:x",
        "os.system",
        "\x1b[2J",
        "\ud800",
        "é",
    ),
    *([], [1], [10**9] * 9, [[[]]], {}, {"type": "UNetHead"}, {"type": "FrozenQwen"}),
    *({"type": "GN"}, {"__python__": "os.system"}, {"__python__": "torch.float64"}, {"_a": 1}),
    *("x" * 5000, "UNetHead", "SAMRefiner", "vit_h", "float16", "max", "eager", "a" * 40),
]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(load_config(TINY), "tiny", tmp_path_factory.mktemp("fuzz") / "head")


def walk(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON with each of its keys."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from walk(node[key])


def make_record(text: str, rng: random.Random) -> str:
    """One to three changes of values, keys or characters."""
    if rng.random() < 0.15:
        at = rng.randrange(len(text))
        return (
            text[:at] + rng.choice(["", "{", "]", '"', "NaN", "1e999", "\\", "\0"]) + text[at + 1 :]
        )
    record = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        places = list(walk(record))
        container, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.7:
            container[key] = rng.choice(VALUES)
        elif kind < 0.85 and isinstance(container, dict):
            container[rng.choice(["x", "type", "checkpoint", "_scope_", str(key) + "x"])] = (
                rng.choice(VALUES)
            )
        else:
            del container[key]
    return json.dumps(record)


def test_a_mutated_head_is_refused_in_one_sentence_or_built(fuzz, head, tmp_path):
    folder = Path(shutil.copytree(head, tmp_path / "head"))
    text = (head / "config.json").read_text()

    def judge(mutated: str) -> None:
        (folder / "config.json").write_text(mutated, encoding="utf-8", errors="surrogatepass")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = build_without_reader_weights(load_pretrained(folder))
        except (ValueError, OSError) as error:
            assert len(str(error)) < 1500 and "\n" not in str(error), str(error)
        else:
            assert model.mask_head is not None

    fuzz.check_in_children(lambda rng: make_record(text, rng), judge, max_megabytes=1024)
