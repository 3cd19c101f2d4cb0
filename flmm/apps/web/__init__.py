"""The page: one frozen reader, many visitors, a picture and a conversation each.

``service`` is the page without a browser: requests in, updates out. ``server`` puts it behind a
dozen routes, with ``requests`` and ``gate`` before it; ``page.html``, ``page.css`` and the scripts
are what the browser shows. Only ``server`` and ``gate`` import Starlette (the extra ``web``).
"""
