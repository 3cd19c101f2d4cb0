"""The page's events in Gradio, without a browser."""

from __future__ import annotations

import pytest

from flmm.web.service import PageService
from tests.web.page_requests import ask, send

gr = pytest.importorskip("gradio", reason="the page needs Gradio (the extra 'web')")


@pytest.fixture
def page(service: PageService):
    from flmm.web.page import build_page

    page = build_page(service, question="What is it?", begin="a", select="list")
    gr.routes.App.create_app(page)
    return page


def find_listener(page, name: str):
    return next(
        function.fn for function in page.fns.values() if name in [t[1] for t in function.targets]
    )


def test_every_action_is_an_event_nobody_else_can_call(page, service: PageService) -> None:
    events = {target[1]: function for function in page.fns.values() for target in function.targets}
    assert {*service.actions, "stop_answer", "unload"} <= set(events)
    for action in service.actions:
        assert events[action].api_visibility == "private"
        assert events[action].concurrency_limit == 1
    assert events["ask"].concurrency_id != events["open_sample"].concurrency_id


def test_updates_reach_the_component(page) -> None:
    listen = find_listener(page, "open_sample")
    data = gr.EventData(None, {"request": {"index": 0, "id": 3}})
    updates = list(listen(data, gr.Request(session_hash="anna")))
    assert updates[0]["picture"]["id"] == 3 and updates[-1]["served"] == 3
    assert all(update["__type__"] == "update" for update in updates)


def test_who_leaves_is_forgotten_by_gradio_too(page, service: PageService) -> None:
    for key in ("anna", "ben"):
        send(service, key, "open_sample", index=0)
        page.state_holder[key]["seen"] = "a picture"
    find_listener(page, "unload")(gr.Request(session_hash="anna"))
    assert service.visitors.find("anna") is None and "anna" not in page.state_holder
    assert "ben" in page.state_holder and ask(service, "ben")["turns"]["items"]


def test_the_page_shows_how_to_begin(page, service: PageService) -> None:
    view = next(block for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert view.props["start"] == {"question": "What is it?", "begin": "a", "select": "list"}
    assert len(view.props["samples"]) == len(service.samples)
    assert view.props["bounds"]["upload_bytes"] == service.limits.max_upload_bytes
