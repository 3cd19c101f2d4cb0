"""The page in a browser: one custom component in Gradio's frame.

The component (``page.html``, ``page.css``, ``page.js``) draws everything from its properties and
asks through events of its own; Gradio brings requests to ``PageService`` one behind the other and
its updates back. This is the only file that imports Gradio.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from flmm.web.gate import Gate
from flmm.web.limits import Limits
from flmm.web.selecting import CHOICES, find_selectors
from flmm.web.service import PageService
from flmm.web.views import build_picture_view

TITLE = "flmm: words that point"
FOLDER = Path(__file__).parent
_FAILED = "() => window.dispatchEvent(new Event('flmm:failed'))"
_SWEEP_S = 60.0
# What the service updates.
_EMPTY: dict[str, Any] = {
    **{name: {} for name in ("picture", "turns", "draft", "look", "message", "saved")},
    **{"answered": 0, "served": 0},
}


def build_page(
    service: PageService, question: str = "", begin: str = "", select: str = "config"
) -> gr.Blocks:
    """The page.

    Args:
        service: who answers.
        question: that stands in the field at first.
        begin: words that answers begin with at first.
        select: name of the choice of phrases at first, see ``flmm.web.selecting``.

    Raises:
        ValueError: there is no such choice.
    """
    find_selectors(select)
    limits = service.limits
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        view = gr.HTML(
            html_template=(FOLDER / "page.html").read_text(encoding="utf-8"),
            js_on_load=_read_script(),
            apply_default_css=False,
            samples=[build_picture_view(item, 0) for item in service.samples],
            model=_describe_model(service),
            start={"question": question, "begin": begin, "select": select},
            choices=[[name, label] for name, (label, _) in CHOICES.items()],
            bounds={
                "upload_bytes": limits.max_upload_bytes,
                "question_characters": limits.max_question_characters,
            },
            **_EMPTY,
        )
        for action in service.actions:
            # An answer is long and a look is short: each kind waits for its own.
            event = getattr(view, action)(
                _connect(service, action),
                outputs=view,
                concurrency_limit=1,
                concurrency_id="answers" if action == "ask" else "moments",
                show_progress="hidden",
                trigger_mode="multiple",
                api_visibility="private",
            )
            event.failure(None, js=_FAILED)
        view.stop_answer(
            _name(service.stop), queue=False, api_visibility="private", show_progress="hidden"
        )
        page.unload(_name(partial(_forget, page, service)))
    return page


def serve(page: gr.Blocks, service: PageService, host: str, port: int) -> None:
    """Show the page until the process is interrupted.

    Args:
        page: of :func:`build_page`.
        service: who answers.
        host: address to listen on; ``"127.0.0.1"``: this machine alone.
        port: to listen on; 0: any that is free.

    Raises:
        OSError: the port is taken.
    """
    # Gradio's own record of requests, which it would keep in the visitors' browsers.
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    page.queue(max_size=service.limits.queue_size, api_open=False)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port or None,
            share=False,
            quiet=True,
            show_error=False,
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            prevent_thread_lock=True,
            state_session_capacity=2 * service.limits.max_visitors,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            head=f"<style>{(FOLDER / 'page.css').read_text(encoding='utf-8')}</style>",
            app_kwargs={"middleware": [_build_gate(service.limits)]},
        )
    except OSError as error:
        raise OSError(
            f"the page cannot listen to port {port} of {host}, which may be taken: choose another "
            "one, or 0 for any"
        ) from error
    print(f"flmm's page is at {url} (Ctrl+C ends it)", flush=True)
    threading.Thread(target=_sweep, args=(service,), daemon=True).start()
    page.block_thread()


def _forget(page: gr.Blocks, service: PageService, key: str) -> None:
    """The visitor is gone; so is Gradio's own copy of what the visitor saw."""
    service.leave(key)
    holder = page.state_holder
    with holder.lock:
        holder.session_data.pop(key, None)
        holder.time_last_used.pop(key, None)


def _build_gate(limits: Limits) -> Any:
    from starlette.middleware import Middleware

    # A file travels as base64 within JSON.
    return Middleware(Gate, max_body_bytes=limits.max_upload_bytes * 4 // 3 + 2**17)


def _connect(service: PageService, action: str) -> Callable[..., Iterator[Any]]:
    """A listener of Gradio's for an action of the service."""

    def listen(data: gr.EventData, request: gr.Request) -> Iterator[Any]:
        for update in service.answer(str(request.session_hash), action, data.request):
            yield gr.update(**update)

    return listen


def _name(method: Callable[[str], None]) -> Callable[..., None]:
    """A listener of Gradio's that tells a method which visitor it is about."""

    def listen(request: gr.Request) -> None:
        method(str(request.session_hash))

    return listen


def _sweep(service: PageService) -> None:
    """Forget idle visitors also while nobody asks for anything."""
    pause = threading.Event()
    while not pause.wait(min(_SWEEP_S, service.limits.idle_s)):
        service.visitors.drop_idle()


def _describe_model(service: PageService) -> str:
    config = service.inferencer.config
    return "" if config is None else Path(str(config.filename)).stem


def _read_script() -> str:
    names = ("bridge.js", "stage.js", "talk.js", "page.js")
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


__all__ = ["TITLE", "build_page", "serve"]
