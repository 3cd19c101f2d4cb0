"""The page: one frozen reader, many visitors, a picture and a conversation each.

``service`` is the page without a browser: requests in, updates out. ``page`` puts it behind Gradio,
``page.html``, ``page.css`` and ``page.js`` are what the browser shows. Only ``page`` imports Gradio
(the extra ``web``).
"""
