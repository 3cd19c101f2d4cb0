"""The page without a browser: a visit, its faults, and visitors kept apart."""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from flmm import FrozenQwen, GroundingInferencer
from flmm.apps.web.requests import Limits
from flmm.apps.web.service import PageService
from flmm.conversation import Chat
from flmm.grounder import Grounder
from flmm.masks import UNetHead
from tests.small_models import build_small_model, load_processor
from tests.web.page_requests import QUESTION, ask, decode_alpha, decode_image, send


def test_a_visit(service: PageService) -> None:
    opened = send(service, "anna", "open_sample", index=3)
    assert opened["turns"] == {"picture": opened["picture"]["id"], "items": []}
    sample = service.samples[3].image
    shown = decode_image(opened["picture"]["url"])
    assert np.array_equal(np.asarray(shown), np.asarray(sample))

    asked = {"question": QUESTION, "begin": "a", "select": "list"}
    updates = list(service.answer("anna", "ask", asked))
    texts = [update["draft"]["text"] for update in updates if update.get("draft")]
    assert len(texts) > 5 and all(b.startswith(a) for a, b in itertools.pairwise(texts))
    assert updates[-1]["draft"] == {}
    turn = updates[-1]["turns"]["items"][0]
    visitor = service.visitors.find("anna")
    assert visitor is not None
    said = visitor.chat.turns[0]
    assert turn["text"] == said.text == texts[-1] and len(turn["tokens"]) == len(said.tokens)
    assert len(turn["phrases"]) == len(said.phrases) > 0
    for view, phrase in zip(turn["phrases"], said.phrases):
        start, end = view["span"]
        assert turn["text"][start:end] == view["text"]
        assert np.array_equal(decode_alpha(view["tint"]) > 0, phrase.mask)

    look = send(service, "anna", "look_from", turn=0, token=len(turn["tokens"]) - 2)["look"]
    assert look["kind"] == "token" and set(look["layers"]) == {"all", "best", "mask"}
    x0, y0, x1, y1 = said.phrases[0].box_xyxy.tolist()
    look = send(service, "anna", "look_at", box=[x1, y1, x0, y0])["look"]  # drawn upwards
    assert look["box"] == [int(x0), int(y0), int(x1), int(y1)]
    assert look["words"][0]["text"] in said.phrases[0].text
    assert len(look["excess"][0]) == len(turn["tokens"])

    undone = send(service, "anna", "undo")
    assert undone["turns"]["items"] == [] and undone["message"]["text"] == ""


def test_the_answer_is_the_chats_own(service: PageService, inferencer) -> None:
    send(service, "anna", "open_sample", index=1)
    shown = ask(service, "anna", select="brackets")["turns"]["items"][0]
    alone = Chat(inferencer.model, inferencer.model.vlm.prefill(service.samples[1].image))
    assert shown["text"] == alone.ask(QUESTION, begin="a").text
    assert shown["phrases"] == []


def test_brackets_point_whatever_the_letters(service: PageService) -> None:
    send(service, "anna", "open_sample", index=1)
    turn = ask(service, "anna", "😀 is the [green circle] left?")["turns"]["items"][0]
    phrase = turn["phrases"][0]
    assert phrase["role"] == "question" and phrase["text"] == "green circle"
    start, end = phrase["span"]
    assert turn["question"][start:end] == "green circle"


def test_visitors_are_kept_apart(service: PageService) -> None:
    """Two visitors, step by step in turns, against each of them alone."""
    alone = []
    for index in (0, 5):
        send(service, "alone", "open_sample", index=index)
        alone.append(ask(service, "alone")["turns"]["items"])
    keys = ["anna", "ben"]
    for key, index in zip(keys, (0, 5)):
        send(service, key, "open_sample", index=index)
    asked = {"question": QUESTION, "begin": "a", "select": "config"}
    running = {key: service.answer(key, "ask", asked) for key in keys}
    last: dict[str, list] = {}
    while running:
        for key in list(running):
            update = next(running[key], None)
            if update is None:
                del running[key]
            elif "turns" in update:
                last[key] = update["turns"]["items"]
    assert last["anna"] == alone[0] and last["ben"] == alone[1] != alone[0]
    assert "to begin" in ask(service, "eve")["message"]["text"]


def test_the_same_picture_is_two_conversations(service: PageService) -> None:
    for key in ("anna", "ben"):
        send(service, key, "open_sample", index=4)
    ask(service, "anna")
    assert len(ask(service, "ben", "what is left?")["turns"]["items"]) == 1
    assert len(ask(service, "anna", "what is right?")["turns"]["items"]) == 2


def test_threads_are_served_one_step_at_a_time(service: PageService) -> None:
    expected = {}
    for index in range(3):
        send(service, "alone", "open_sample", index=index)
        expected[index] = ask(service, "alone")["turns"]["items"]
    results: dict[int, list] = {}

    def visit(index: int) -> None:
        send(service, f"visitor {index}", "open_sample", index=index)
        results[index] = ask(service, f"visitor {index}")["turns"]["items"]

    threads = [threading.Thread(target=visit, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == expected


def test_a_stopped_answer_is_kept(service: PageService) -> None:
    send(service, "anna", "open_sample", index=0)
    asked = {"question": QUESTION, "begin": "a", "select": "list"}
    updates = []
    for update in service.answer("anna", "ask", asked):
        updates.append(update)
        if len(updates) == 5:
            service.stop("anna")
    turn = updates[-1]["turns"]["items"][0]
    assert turn["note"] == "You stopped the answer here." and turn["text"]
    assert len(turn["text"]) < 40
    assert len(ask(service, "anna")["turns"]["items"]) == 2


def test_an_answer_nobody_waits_for_leaves_the_conversation_whole(service: PageService) -> None:
    send(service, "anna", "open_sample", index=0)
    asked = {"question": QUESTION, "begin": "a", "select": "list"}
    answer = service.answer("anna", "ask", asked)
    for _ in range(4):
        next(answer)
    message = send(service, "anna", "look_at", box=[0, 0, 50, 50])["message"]
    assert "an answer is being written" in message["text"].lower()
    answer.close()  # as when the browser is gone
    assert len(ask(service, "anna")["turns"]["items"]) == 2


def test_a_new_picture_ends_the_answer_about_the_last(service: PageService) -> None:
    send(service, "anna", "open_sample", index=0)
    asked = {"question": QUESTION, "begin": "a", "select": "list"}
    answer = service.answer("anna", "ask", asked)
    for _ in range(4):
        next(answer)
    send(service, "anna", "open_sample", index=1)
    assert [update for update in answer if "turns" in update or update.get("draft")] == []
    assert len(ask(service, "anna")["turns"]["items"]) == 1


def test_answers_end_in_time(inferencer) -> None:
    service = PageService(inferencer, Limits(time_limit_s=1e-6))
    send(service, "anna", "open_sample", index=0)
    note = ask(service, "anna")["turns"]["items"][0]["note"]
    assert note.startswith("The answer was cut after") and note.endswith("seconds.")
    service = PageService(inferencer, Limits(max_new_tokens=3))
    send(service, "anna", "open_sample", index=0)
    note = ask(service, "anna")["turns"]["items"][0]["note"]
    assert note == "The answer was cut after 3 tokens."


def test_who_comes_back_finds_the_conversation(service: PageService) -> None:
    """All that another browser page would be told, in the middle of an answer and after it."""
    send(service, "anna", "open_sample", index=0)
    first = ask(service, "anna")["turns"]["items"]
    asked = {"question": QUESTION, "begin": "a", "select": "list"}
    answer = service.answer("anna", "ask", asked)
    said = [next(answer) for _ in range(4)]
    visitor = service.visitors.find("anna")
    assert visitor is not None
    back = visitor.read(0)
    assert back["writing"] and back["draft"] == said[-1]["draft"] and back["draft"]["text"]
    assert back["turns"]["items"] == first and back["picture"]["name"] == "sample_1.png"
    assert visitor.read(back["version"]).keys() == {"version", "writing"}  # nothing is new
    last = list(answer)[-1]
    new = visitor.read(back["version"])
    assert not new["writing"] and new["turns"] == last["turns"] and new["draft"] == {}
    assert "picture" not in new and len(new["turns"]["items"]) == 2


@pytest.mark.parametrize(
    "action, request_, part",
    [
        ("open_sample", {"index": 99}, "no sample 99"),
        ("open_upload", {"name": "a.png", "data": "?"}, "damaged on its way"),
        ("open_upload", {"name": "a.png", "data": "A" * 30_000_000}, "takes up to 20 mib"),
        ("ask", {"question": " ", "begin": "", "select": "list"}, "at least one word"),
        ("ask", {"question": "is [it", "begin": "", "select": "list"}, "not closed"),
        ("ask", {"question": "x" * 2001, "begin": "", "select": "list"}, "longer than 2000"),
        ("ask", {"question": "x", "begin": "", "select": "magic"}, "no choice of words 'magic'"),
        ("undo", {}, "no turn to undo"),
        ("look_from", {"turn": 0, "token": 0}, "no longer part"),
        ("look_at", {"box": [0, 0, 5, 5]}, "no words yet"),
        ("look_at", {"box": [0, 0, 0, 0]}, "box is empty"),
        ("save", {"kind": "png"}, "no masks yet"),
    ],
)
def test_faults_are_messages(service: PageService, action: str, request_: dict, part: str) -> None:
    send(service, "anna", "open_sample", index=0)
    shown = send(service, "anna", action, **request_)
    assert shown["message"]["kind"] == "error" and part in shown["message"]["text"].lower()
    assert not shown["message"]["text"][0].islower()
    assert ask(service, "anna")["turns"]["items"][-1]["text"]


def test_a_full_context_is_a_message(inferencer) -> None:
    service = PageService(inferencer, Limits(max_question_characters=10**6))
    send(service, "anna", "open_sample", index=0)
    context = inferencer.model.vlm.text_config.max_position_embeddings
    message = ask(service, "anna", "x " * context)["message"]
    assert f"the model reads {context}" in message["text"] and message["kind"] == "error"
    assert ask(service, "anna")["turns"]["items"][-1]["text"]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_any_reader_with_or_without_refiner(data_dir: Path, family: str) -> None:
    """Random small models of the real classes, real tokenizers and templates."""
    reader = FrozenQwen(
        build_small_model(data_dir, family),
        processor=load_processor(data_dir, family),
        max_pixels=64 * 32**2,
    )
    grounder = Grounder(reader, UNetHead(in_channels=reader.num_maps, base_channels=8))
    service = PageService(GroundingInferencer.from_model(grounder), Limits(max_new_tokens=8))
    send(service, "anna", "open_sample", index=0)
    turn = ask(service, "anna", "where is [the yellow triangle], please?", begin="It is")["turns"]
    turn = turn["items"][0]
    assert turn["text"].startswith("It is") and turn["phrases"][0]["role"] == "question"
    look = send(service, "anna", "look_from", turn=0, token=0)["look"]
    assert look["text"] == "where" and decode_alpha(look["layers"]["all"]).max() > 150
    look = send(service, "anna", "look_at", box=[0, 0, 100, 100])["look"]
    assert len(look["excess"][0]) == len(turn["tokens"])


def test_what_nobody_thought_of_is_logged_and_told(
    service: PageService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send(service, "anna", "open_sample", index=0)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory at 0x7f")

    monkeypatch.setattr(Chat, "undo", fail)
    with caplog.at_level(logging.ERROR):
        shown = send(service, "anna", "undo")
    assert shown["message"]["text"].startswith("Something went wrong")
    assert "0x7f" not in shown["message"]["text"] and "0x7f" in caplog.text
