"""yapf lays the same config's text out six times in a run: half of a toy training's time.

yapf also writes a grammar file into the user's cache when there is none, and shows it to other
processes before it is whole ("EOFError: Ran out of input"): the import here, in pytest's first
process, makes it before pytest's workers, and the tests' own processes, start.
"""

from __future__ import annotations

from typing import Any

from mmengine.config import config

_lay_out = config.FormatCode
_layouts: dict[str, Any] = {}


def _lay_out_once(text: str, **style: Any) -> Any:
    if text not in _layouts:
        _layouts[text] = _lay_out(text, **style)
    return _layouts[text]


config.FormatCode = _lay_out_once  # in this process and in those that are forked from it
