"""The embedded toy, and a conversation whose words and objects are known."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from flmm import GroundingInferencer
from flmm.apps.explanation import explain
from flmm.toy.shapes import render_scene

QUESTION = "Please give me a description of the image."


@dataclass
class Described:
    """A drawn scene, what is said about it, and the characters that name each object."""

    image: np.ndarray
    masks: list
    text: str
    spans: list


def describe(seed):
    """A scene of two objects or more, and a caption that names each by size, colour and shape."""
    scene = render_scene(random.Random(seed), min_objects=2)
    text, spans = "", []
    for item in scene.objects:
        text += ", a " if text else "a "
        start = len(text)
        text += f"{item.size} {item.color} {item.shape}"
        spans.append((start, len(text)))
        text += " " + " ".join(item.place(scene.image_size))
    return Described(scene.image, [item.mask for item in scene.objects], text + ".", spans)


@pytest.fixture(scope="package")
def inferencer():
    return GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


@pytest.fixture(scope="package")
def tell(inferencer):
    """Factory of chats about a described scene: the caption is put into the reader's mouth."""

    def build(described, question=QUESTION):
        chat = inferencer.chat(described.image, selectors=["brackets"])
        chat.ask(question, begin=described.text, max_new_tokens=0)
        return chat

    return build


@pytest.fixture(scope="package")
def two_pictures(tell, inferencer):
    """Two turns; the second shows another picture and answers with markup, and more than Latin."""
    chat = tell(describe(1))
    answer = 'a</script><script>window.hacked = 1</script><img src=x onerror="hacked = 1"> 左边 😀'
    chat.ask(
        "Is it the [big one]? <b>bold</b>",
        [describe(2).image],
        begin=f"{answer} café & red circle.",
        max_new_tokens=0,
    )
    return chat


@pytest.fixture(scope="package")
def explanation(two_pictures):
    return explain(two_pictures)
