"""The page: one frozen reader, many visitors, a picture and a conversation each.

``service`` works without a browser; only ``server`` and ``gate`` import Starlette (extra ``web``).
"""
