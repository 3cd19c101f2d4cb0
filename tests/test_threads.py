"""Many threads with one model: every result is what it is alone, whatever goes wrong beside it.

``FLMM_THREADS=24 FLMM_THREAD_CALLS=200 pytest tests/test_threads.py`` is the long form.
"""

import copy
import gc
import linecache
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from flmm import GroundingInferencer
from flmm.apps.explanation import explain
from flmm.readers import FrozenQwen, attention
from flmm.readers.guard import ConversationBusyError, find_guard
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
THREADS = int(os.environ.get("FLMM_THREADS", "6"))
CALLS = int(os.environ.get("FLMM_THREAD_CALLS", "3"))
# Python looks for Ctrl-C after calls and where functions begin: not before this assignment.
UNBROKEN = ("self._thread = outer",)
QUESTIONS = ["What is in the picture?", "Where is [the small star]?", "Describe the image."]


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


@pytest.fixture(scope="module")
def samples():
    return render_samples(6, seed=31)


class Jobs:
    """What threads do; each job's result is plain values that compare bit by bit."""

    def __init__(self, inferencer, samples):
        self.inferencer, self.samples = inferencer, samples
        vlm = inferencer.model.vlm
        beside = FrozenQwen.from_model(vlm.model, vlm.processor)
        self.readers = [vlm, beside, copy.deepcopy(vlm)]
        self.prefix = vlm.prefill(samples[0].image)
        kinds = ("ground", "batch", "describe", "stream", "stop", "explain", "share", "mistake")
        self.names = [(kind, number) for kind in kinds for number in range(3)]

    def run(self, name):
        kind, number = name
        return getattr(self, kind)(number, *self.samples[number][:2])

    def ground(self, number, image, phrases):
        return describe_result(self.inferencer(image, phrases[number % 2 :], return_maps=True))

    def batch(self, number, image, phrases):
        other = self.samples[number + 1]
        results = self.inferencer([image, other.image], [phrases, other.phrases])
        return [describe_result(result) for result in results]

    def describe(self, number, image, phrases):
        return self.inferencer.describe(image, max_new_tokens=8)

    def stream(self, number, image, phrases):
        chat = self.inferencer.chat(image)
        pieces = []
        for piece in chat.stream(QUESTIONS[number], max_new_tokens=12):
            pieces.append(piece)
            time.sleep(0)  # others run
        chat.ask(QUESTIONS[number - 1], max_new_tokens=6)
        return pieces, [describe_turn(turn) for turn in chat.turns]

    def stop(self, number, image, phrases):
        chat = self.inferencer.chat(image)
        stream = chat.stream(QUESTIONS[0])
        next(stream), next(stream)
        stream.close()
        chat.undo()
        return describe_turn(chat.ask(QUESTIONS[1], max_new_tokens=6))

    def explain(self, number, image, phrases):
        chat = self.inferencer.chat(image)
        chat.ask(QUESTIONS[2], max_new_tokens=10)
        explanation = explain(chat)
        return [maps.tobytes() for maps in (*explanation.maps, *explanation.head_maps(3))]

    def share(self, number, image, phrases):
        """One prefix in many threads, three readers around one model."""
        vlm = self.readers[number]
        said = vlm.answer(self.prefix, QUESTIONS[:2], max_new_tokens=5)
        seen = vlm.attend(self.prefix, phrases)
        return said, vlm.generate(self.prefix, max_new_tokens=6), seen.maps.numpy().tobytes()

    def mistake(self, number, image, phrases):
        """An error between two layers, Ctrl-C there, a blank phrase; and then the same as ever."""
        kinds = (RuntimeError, KeyboardInterrupt, MemoryError)
        with provoke(kinds[number]), pytest.raises(kinds[number], match="provoked"):
            self.inferencer(image, phrases)
        with pytest.raises(ValueError, match="blank"):
            self.inferencer(image, ["  "])
        return self.ground(number, image, phrases)


def describe_result(result):
    arrays = (result.masks, result.scores, result.boxes_xyxy, result.attention_maps)
    return result.phrases, [None if array is None else array.tobytes() for array in arrays]


def describe_turn(turn):
    phrases = [(item.text, item.image, item.segmentation, item.score) for item in turn.phrases]
    return turn.question, turn.text, turn.end_reason, phrases, turn.notes


_provoked = threading.local()
_read = attention.RowReader.read


@contextmanager
def provoke(kind):
    """In this thread rows of the second layer end with an exception."""
    _provoked.kind = kind
    try:
        yield
    finally:
        _provoked.kind = None


def read_or_fail(self, layer_index, weights, first_row=0):
    if layer_index == 1 and getattr(_provoked, "kind", None):
        raise _provoked.kind("provoked")
    _read(self, layer_index, weights, first_row)


def test_many_threads_get_what_one_gets(inferencer, samples, monkeypatch):
    monkeypatch.setattr(attention.RowReader, "read", read_or_fail)
    jobs = Jobs(inferencer, samples)
    config = inferencer.model.vlm.text_config
    own = config._attn_implementation
    alone = {name: jobs.run(name) for name in jobs.names}
    assert len({repr(result) for result in alone.values()}) > 16  # they can be told apart
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)

    def work(seed):
        draw = random.Random(seed)
        names = [draw.choice(jobs.names) for _ in range(CALLS)]
        return [name for name in names if jobs.run(name) != alone[name]]

    try:
        with ThreadPoolExecutor(THREADS) as pool:
            wrong = [name for names in pool.map(work, range(THREADS)) for name in names]
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert config._attn_implementation == own
    assert {name: jobs.run(name) for name in jobs.names[::4]} == dict(list(alone.items())[::4])


def test_one_guard_for_all_who_share_a_model(inferencer):
    vlm = inferencer.model.vlm
    beside = FrozenQwen.from_model(vlm.model, vlm.processor)
    assert beside.lock is vlm.lock is copy.deepcopy(inferencer).model.vlm.lock
    other = copy.deepcopy(vlm.model)
    assert FrozenQwen.from_model(other, vlm.processor).lock is not vlm.lock
    with vlm.lock, vlm.lock:  # re-entrant
        assert find_guard(vlm.model).lock is vlm.lock


def test_no_pass_runs_while_another_thread_has_the_model(inferencer, samples, monkeypatch):
    vlm = inferencer.model.vlm
    free = []

    def ask(*_, **__):
        with ThreadPoolExecutor(1) as pool:
            free.append(pool.submit(vlm.lock.acquire, blocking=False).result())

    hook = vlm.model.model.language_model.layers[0].register_forward_pre_hook(ask)
    try:
        prefix = vlm.prefill(samples[0].image)
        vlm.attend(prefix, "star")
        vlm.generate(prefix, max_new_tokens=2)
        dialogue = vlm.converse(prefix)
        dialogue.ask("Where?", [vlm.image_processor.encode(samples[1].image)])
        dialogue.look([(len(dialogue) - 2, len(dialogue))])
    finally:
        hook.remove()
    assert len(free) >= 5 and not any(free)


def test_ctrl_c_at_any_line_of_a_pass_leaves_the_model_as_it_was(inferencer, samples):
    """Also at those that put the attention back: the next pass begins by doing it."""
    vlm = inferencer.model.vlm
    prefix = vlm.prefill(samples[0].image)
    expected = vlm.attend(prefix, "star").maps
    own = vlm.text_config._attn_implementation
    files = (sys.modules["flmm.readers.guard"].__file__, attention.__file__)
    lines = 0
    while True:
        countdown = lines

        def interrupt(frame, event, arg):
            nonlocal countdown
            if frame.f_code.co_filename not in files:
                return None
            text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            if event == "line" and text.strip() not in UNBROKEN:
                countdown -= 1
                if countdown == -1:
                    raise KeyboardInterrupt
            return interrupt

        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            vlm.attend(prefix, "star")
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.settrace(before)
        vlm.generate(prefix, max_new_tokens=2)  # a pass without rows
        assert vlm.text_config._attn_implementation == own
        assert vlm.attend(prefix, "star").maps.equal(expected)
        with ThreadPoolExecutor(1) as pool:  # nor is the model locked
            assert pool.submit(vlm.lock.acquire, blocking=False).result(timeout=60)
            pool.submit(vlm.lock.release).result(timeout=60)
        lines += 1 + lines // 8
    assert lines > 50


def test_a_stream_that_is_thrown_away_within_a_pass(inferencer, samples, monkeypatch):
    """Python closes it wherever it collects garbage; its turn is then finished in that place."""
    image, phrases, _ = samples[0]
    expected = describe_result(inferencer(image, phrases))
    chat = inferencer.chat(image)
    stream = chat.stream(QUESTIONS[1])
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle

    def read_and_collect(self, layer_index, weights, first_row=0):
        if layer_index == 1 and not chat.turns:
            gc.collect()
        _read(self, layer_index, weights, first_row)

    monkeypatch.setattr(attention.RowReader, "read", read_and_collect)
    assert describe_result(inferencer(image, phrases)) == expected
    assert [turn.question for turn in chat.turns] == ["Where is the small star?"]
    assert chat.turns[0].phrases


class TestOneChat:
    """Threads that share a conversation take turns."""

    def test_every_question_gets_its_own_turn(self, inferencer, samples):
        chat = inferencer.chat(samples[0].image)
        words = ["circle", "star", "square", "triangle"] * 2
        questions = [f"Where is [the {word}] {place}?" for place, word in enumerate(words)]
        with ThreadPoolExecutor(len(questions)) as pool:
            turns = list(pool.map(lambda text: chat.ask(text, max_new_tokens=4), questions))
        for text, turn in zip(questions, turns):
            assert turn.question == text.replace("[", "").replace("]", "")
        assert {id(turn) for turn in turns} == {id(turn) for turn in chat.turns}
        # In the order that came about, one thread is told the same.
        again = inferencer.chat(samples[0].image)
        for turn in chat.turns:
            expected = again.ask(questions[turns.index(turn)], max_new_tokens=4)
            assert describe_turn(expected) == describe_turn(turn)

    def test_another_thread_may_end_a_stream(self, inferencer, samples):
        chat = inferencer.chat(samples[0].image)
        stream = chat.stream(QUESTIONS[0])
        said = next(stream) + next(stream)
        with ThreadPoolExecutor(1) as pool:
            turn = pool.submit(chat.ask, QUESTIONS[2], max_new_tokens=3).result()
        assert list(stream) == []
        assert [item.text.startswith(said) for item in chat.turns] == [True, False]
        assert chat.turns[1] is turn and chat.turns[0].end_reason is None

    def test_on_text_may_ask_something_else(self, inferencer, samples):
        chat = inferencer.chat(samples[0].image)
        asked = []

        def ask_once(piece):
            if not asked:
                asked.append(None)
                asked.append(chat.ask(QUESTIONS[2], max_new_tokens=3))

        turn = chat.ask(QUESTIONS[0], on_text=ask_once)
        assert chat.turns == [turn, asked[1]] and turn.question == QUESTIONS[0]

    def test_two_answers_are_not_mixed(self, inferencer, samples):
        dialogue = inferencer.chat(samples[0].image).dialogue
        dialogue.ask("What is in the picture?")
        first = dialogue.write()
        next(first)
        dialogue.ask("And what else?")
        with pytest.raises(ValueError, match="the conversation went on while this answer was"):
            next(first)

    def test_within_a_pass_nobody_waits_for_a_conversation(self, inferencer, samples):
        """Its user may wait for this pass."""
        chat = inferencer.chat(samples[0].image)
        vlm = inferencer.model.vlm
        heard = []

        def look(*_):
            with pytest.raises(ConversationBusyError, match="give each thread and each process"):
                chat.undo()
            heard.append(True)

        taken, done = threading.Event(), threading.Event()

        def use():
            with chat.lock:
                taken.set()
                assert done.wait(60)

        hook = vlm.model.model.language_model.layers[0].register_forward_pre_hook(look)
        with ThreadPoolExecutor(1) as pool:
            user = pool.submit(use)
            assert taken.wait(60)
            try:
                vlm.prefill(samples[1].image)
            finally:
                hook.remove()
                done.set()
            user.result()
        assert heard

    def test_a_copy_has_a_lock_of_its_own(self, inferencer, samples):
        chat = inferencer.chat(samples[0].image)
        chat.ask(QUESTIONS[0], max_new_tokens=4)
        other = copy.deepcopy(chat)
        assert other.lock is not chat.lock is not chat.dialogue.fork().lock
        expected = describe_turn(chat.ask(QUESTIONS[1], max_new_tokens=4))
        assert describe_turn(other.ask(QUESTIONS[1], max_new_tokens=4)) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_computes_the_same(inferencer, samples):
    """With OpenMP's pool in use here, and another thread in the middle of passes."""
    image, phrases, _ = samples[0]
    threads, stop = torch.get_num_threads(), threading.Event()
    torch.set_num_threads(2)
    try:
        expected = inferencer(image, phrases, return_maps=True)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(lambda: [inferencer(image, phrases) for _ in iter(stop.is_set, 1)])
            child = os.fork()
            if not child:
                run_child(lambda: is_same(inferencer(image, phrases, return_maps=True), expected))
            status = wait_for(child, seconds=120)
            stop.set()
            busy.result()
    finally:
        stop.set()
        torch.set_num_threads(threads)
    assert status == 0


def is_same(result, expected):
    """But for the order in which two threads and one add numbers."""
    maps = result.attention_maps, expected.attention_maps
    other_pixels = (result.masks != expected.masks).mean()
    return other_pixels < 1e-3 and np.allclose(*maps, rtol=1e-3, atol=1e-6)


def run_child(check):
    """Ends this process: 0 where ``check()`` holds."""
    code = 1
    try:
        code = 0 if check() else 2
    finally:
        os._exit(code)


def wait_for(child, seconds):
    """Exit code of a process; one that hangs is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def test_maps_stay_numpy_equal_after_all_this(inferencer, samples):
    fresh = GroundingInferencer(TINY, device="cpu")
    for image, phrases, _ in samples[:2]:
        one, two = (item(image, phrases, return_maps=True) for item in (inferencer, fresh))
        assert np.array_equal(one.attention_maps, two.attention_maps)
