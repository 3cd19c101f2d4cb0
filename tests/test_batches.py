"""A batch is a batch: what belongs to what, read together, equal to one by one, nothing lost."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from flmm import Continuation, GroundingInferencer
from flmm.grounder import readings
from flmm.meters import LargestTensor
from flmm.results import GroundingResult
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
WORDS = ["the red circle", "a blue square", "the star"]


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


@pytest.fixture(scope="module")
def pictures():
    """Five pictures of three sizes."""
    scenes = [Image.fromarray(sample.image) for sample in render_samples(5, seed=21)]
    scenes[1] = scenes[1].resize((200, 320))
    scenes[3] = scenes[3].resize((411, 150))
    return scenes


def assert_alike(result, other):
    """Passes of other shapes round otherwise: a pixel on the very edge may fall either way."""
    assert result.phrases == other.phrases and result.masks.shape == other.masks.shape
    assert (result.masks != other.masks).mean() < 1e-4
    np.testing.assert_allclose(result.scores, other.scores, atol=1e-3)


def count_calls(monkeypatch, owner, name):
    sizes = []
    real = getattr(owner, name)

    def count(items, *args, **kwargs):
        sizes.append(len(items))
        return real(items, *args, **kwargs)

    monkeypatch.setattr(owner, name, count)
    return sizes


@pytest.mark.parametrize(
    "phrases",
    [WORDS, tuple(WORDS[:1]), "the red circle", Continuation("a red circle", ((2, 5), (6, 12)))],
    ids=["list", "tuple", "str", "continuation"],
)
def test_one_list_is_for_every_picture(inferencer, pictures, phrases):
    results = inferencer(pictures[:2], phrases)  # two of them: not one phrase of each
    for result, picture in zip(results, pictures):
        assert_alike(result, inferencer(picture, phrases))


def test_a_list_of_lists_is_one_each_and_results_are_those_of_one_by_one(inferencer, pictures):
    lists = [WORDS[: 1 + index % 3] for index in range(5)]
    for given in (lists, tuple(map(tuple, lists)), iter(lists)):
        results = inferencer(tuple(pictures), given, return_maps=True, return_probs=True)
        assert isinstance(results, list) and [len(result) for result in results] == [1, 2, 3, 1, 2]
    for result, picture, phrases in zip(results, pictures, lists):
        alone = inferencer(picture, phrases, return_maps=True, return_probs=True)
        assert_alike(result, alone)
        np.testing.assert_allclose(result.attention_maps, alone.attention_maps, atol=1e-5)
        np.testing.assert_allclose(result.probs, alone.probs, atol=1e-3)
        assert np.array_equal(alone.probs > 0.5, alone.masks) and alone.probs.dtype == np.float32
    assert inferencer(pictures[0], WORDS).probs is None


def test_pictures_are_read_together(inferencer, pictures, monkeypatch):
    read = count_calls(monkeypatch, inferencer.model.vlm, "_read_batch")
    encoded = count_calls(monkeypatch, inferencer.model.sam, "encode")
    inferencer(pictures[:1] * 6, WORDS)
    assert read == [6] and encoded == [6]


def test_an_iterator_gives_results_as_they_come(inferencer, pictures):
    taken = []

    def give():
        for index in range(40):
            taken.append(index)
            yield pictures[index % 5]

    results = inferencer(give(), WORDS[:1])
    assert taken == [] and iter(results) is results
    first = next(results)
    assert isinstance(first, GroundingResult) and len(taken) == 17, "16 and one that waits"
    assert_alike(first, inferencer(pictures[0], WORDS[:1]))
    assert len(list(results)) == 39


def test_an_open_file_is_one_picture_not_an_iterator(inferencer, pictures):
    stream = io.BytesIO()
    pictures[0].save(stream, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(inferencer, "_read", seen.append)
        patch.setattr(inferencer, "_ground", lambda *_: [None])
        inferencer(stream, WORDS)
    assert seen == [stream]


def test_a_bar_is_shown_when_asked_for(inferencer, pictures, capsys):
    list(inferencer(iter(pictures[:2]), WORDS[:1], progress=True))
    assert "2image" in capsys.readouterr().err
    inferencer(pictures[:2], WORDS[:1])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [list, iter])
def test_one_bad_picture_loses_no_other(inferencer, pictures, kind, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    given = [pictures[0], tmp_path / "broken.png", pictures[1], "missing.png", pictures[2], 3]
    lists = [WORDS, WORDS, ["star", "  "], WORDS, WORDS, WORDS]
    results = list(inferencer(kind(given), lists, on_error="return"))
    assert_alike(results[0], inferencer(pictures[0], WORDS))
    assert_alike(results[4], inferencer(pictures[2], WORDS))
    texts = [(type(result), str(result)) for result in results if isinstance(result, Exception)]
    assert [kind for kind, _ in texts] == [ValueError, ValueError, FileNotFoundError, TypeError]
    assert texts[0][1].startswith(f"picture 1 ('{tmp_path}/broken.png'): ")
    assert texts[1][1].startswith("picture 2: phrase 1 ('  ') is blank")
    assert texts[2][1].startswith("picture 3 ('missing.png'): no image file")
    assert texts[3][1].startswith("picture 5: int is not an image")


def test_one_picture_alone_may_return_its_error_too(inferencer):
    assert isinstance(inferencer("missing.png", WORDS, on_error="return"), FileNotFoundError)


def test_an_error_is_raised_in_its_place(inferencer, pictures):
    results = inferencer(iter([pictures[0], "missing.png", pictures[1]]), WORDS[:1])
    assert_alike(next(results), inferencer(pictures[0], WORDS[:1]))
    with pytest.raises(FileNotFoundError, match=r"picture 1 \('missing\.png'\)") as caught:
        next(results)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="picture 1"):
        inferencer([pictures[0], "missing.png"], WORDS[:1])
    with pytest.raises(ValueError, match=r"picture 0 \(ftp://host/a\.png\): ") as caught:
        inferencer(["ftp://me:secret@host/a.png?signed=secret"], WORDS[:1])
    assert "secret" not in str(caught.value)


def test_a_failure_of_the_models_costs_one_picture(inferencer, pictures, monkeypatch):
    real = inferencer.model.vlm.prefill

    def refuse(images, *args, **options):
        if any(image.original_size == (150, 411) for image in images):
            raise torch.OutOfMemoryError("no room")
        return real(images, *args, **options)

    monkeypatch.setattr(inferencer.model.vlm, "prefill", refuse)
    results = inferencer(pictures, WORDS[:1], on_error="return")
    assert [isinstance(result, GroundingResult) for result in results] == [1, 1, 1, 0, 1]
    assert str(results[3]) == "picture 3: no room" and isinstance(results[3], RuntimeError)


@pytest.mark.parametrize(
    "pictures_of, phrases, error, text",
    [
        (0, WORDS, ValueError, "no picture given"),
        (2, [], ValueError, "no phrase given"),
        (2, ["star", ["star"]], TypeError, "are 1 lists and 1 of no list"),
        (2, [["star"]], ValueError, "got 2 pictures and 1 lists of phrases: give one phrase or"),
        (2, [["star"]] * 3, ValueError, "got 2 pictures and 3 lists of phrases"),
        (2, 7, TypeError, "the phrases of a batch are a int"),
        (2, ["star", " "], ValueError, r"phrase 1 \(' '\) is blank"),
        (2, [3, 4], TypeError, "phrase 0 is a int"),
        (2, iter([["star"]]), ValueError, "ended after 1 pictures, and there are more"),
        (2, iter([["star"]] * 3), ValueError, "more lists of phrases than the 2 pictures"),
        (2, iter(["star", "star"]), TypeError, "picture 0: its phrases are a str: give a list"),
    ],
)
def test_what_is_meant_is_never_guessed(inferencer, pictures, pictures_of, phrases, error, text):
    with pytest.raises(error, match=text):
        inferencer(pictures[:pictures_of], phrases)


def test_an_iterator_of_pictures_must_fit_its_lists(inferencer, pictures):
    with pytest.raises(ValueError, match="ended after 1 pictures"):
        list(inferencer(iter(pictures[:2]), [["star"]]))
    with pytest.raises(ValueError, match="more lists of phrases than the 1 pictures"):
        list(inferencer(iter(pictures[:1]), [["star"], ["star"]]))
    with pytest.raises(ValueError, match="on_error is 'skip': give 'raise' or 'return'"):
        inferencer(pictures, WORDS, on_error="skip")


def test_threads_have_their_own_batches(inferencer, pictures):
    wanted = [inferencer(picture, WORDS) for picture in pictures]
    found = {}

    def ask(number):
        order = [(number + step) % 5 for step in range(3)]
        images = [pictures[place] for place in order]
        found[number] = (order, inferencer(images if number % 2 else iter(images), WORDS))
        found[number] = (order, list(found[number][1]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(6))
    for order, results in found.values():
        for place, result in zip(order, results):
            assert_alike(result, wanted[place])


def test_many_phrases_take_the_memory_of_a_few(inferencer, monkeypatch):
    picture = Image.fromarray(render_samples(1, seed=4)[0].image).resize((1500, 1000))
    phrases = [f"the {word}" for word in ("star", "circle", "square", "red one")] * 3
    whole = inferencer(picture, phrases)
    monkeypatch.setattr(readings, "MAX_PART_PIXELS", 2**22)  # two phrases at a time
    monkeypatch.setattr(readings, "MAX_MAP_BYTES", 2**15)  # and several passes of the reader
    with LargestTensor() as largest:
        parts = inferencer(picture, phrases)
    assert_alike(parts, whole)
    assert largest.bytes <= 4 * 2**22 < 4 * len(phrases) * 1500 * 1000, largest.shape
