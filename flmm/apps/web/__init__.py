"""The page: one frozen reader, many visitors, a picture and a conversation each.

``service`` is the page without a browser; ``server`` puts it behind a dozen routes and ``gate``.
These two alone import Starlette (the extra ``web``).
"""
