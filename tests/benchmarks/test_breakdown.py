"""Seconds by part of the real modules."""

import time

import pytest
import torch

from flmm.benchmarks.breakdown import PARTS, _average_while, measure_parts, measure_utilization
from flmm.benchmarks.reading_ways import build_run, make_image
from flmm.benchmarks.timing import build_rows, time_alternately
from flmm.readers.layouts import build_layout_reader

PAUSE = 0.05


def build(case):
    implementation = "eager" if case.way == "flmm" else "sdpa"
    vlm = build_layout_reader(case.layout, case.layers, "float32", implementation)
    factor = vlm.image_processor.patch_size * vlm.image_processor.merge_size
    image = vlm.image_processor.encode(make_image(case.image_tokens, factor))
    return vlm, build_run(case, vlm, image)


def slow_down(module):
    """A pause inside the module's forward."""
    forward = module.forward

    def pause(*args, **kwargs):
        time.sleep(PAUSE)
        return forward(*args, **kwargs)

    module.forward = pause


def count_hooks(vlm):
    """Transformers has some of its own."""
    modules = list(vlm.model.modules())
    return sum(len(item._forward_hooks) + len(item._forward_pre_hooks) for item in modules)


@pytest.mark.parametrize("part", ["vision", "layers", "head", "rest"])
def test_time_that_is_spent_somewhere_is_found_there(make_case, cpu, part):
    """F-LMM's way asks every module once for each of three expressions."""
    vlm, run = build(make_case("flmm"))
    run()
    model = vlm.model.model
    slow_down(
        {
            "vision": model.visual.blocks[0],
            "layers": model.language_model.layers[1].mlp,
            "head": vlm.model.get_output_embeddings(),
            "rest": model.language_model.norm,
        }[part]
    )
    seconds = measure_parts(vlm, run, cpu)
    assert tuple(seconds) == PARTS
    assert 3 * PAUSE <= seconds.pop(part) < 3 * PAUSE + 0.3
    assert all(0 <= value < 3 * PAUSE for value in seconds.values())


def test_ours_has_no_head_and_the_hooks_go(make_case, cpu):
    vlm, run = build(make_case("ours"))
    run()
    before = count_hooks(vlm)
    seconds = measure_parts(vlm, run, cpu)
    assert seconds["head"] == 0 < min(seconds["vision"], seconds["layers"], seconds["rest"])

    def fail():
        run()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        measure_parts(vlm, fail, cpu)
    assert count_hooks(vlm) == before


def test_utilisation_needs_a_gpu(cpu):
    assert measure_utilization(lambda: None, cpu) is None


def test_utilisation_is_the_mean_of_the_second_half(cpu):
    start = time.perf_counter()
    calls = []

    def read():
        return 80.0 if time.perf_counter() - start > 0.45 else 0.0

    mean = _average_while(lambda: calls.append(time.sleep(0.02)), read, cpu, 1.0)
    assert mean == 80.0 and len(calls) >= 20


def test_rows_have_medians_and_ratios(cpu):
    seconds = time_alternately(
        {"slow": lambda: time.sleep(0.04), "fast": lambda: torch.ones(1)}, cpu, repeats=3
    )
    slow, fast = build_rows("sleep", seconds)
    assert slow["low_s"] <= slow["median_s"] <= slow["high_s"] and slow["ratio"] == 1
    assert slow["median_s"] >= 0.04 and fast["ratio"] < 0.2
    assert (fast["what"], fast["case"]) == ("sleep", "fast")
