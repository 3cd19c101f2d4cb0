"""Whether the Hugging Face hub can be had, asked once and with a short patience.

The hub's client tries a connection that does not exist six times, and waits 23 seconds in between.
Whoever loads by a name asks here first, and tells the client to look into its cache alone.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

import huggingface_hub

PATIENCE_S = 3.0
_ANSWER_LASTS_S = 60.0


def is_out_of_reach(name: str | os.PathLike[str]) -> bool:
    """Whether a name can only be found on this machine: a folder, or a hub that does not answer."""
    if os.path.isdir(name) or huggingface_hub.constants.HF_HUB_OFFLINE:
        return True
    minute = int(time.monotonic() / _ANSWER_LASTS_S)
    return not _answers(huggingface_hub.constants.ENDPOINT, minute)


@lru_cache(maxsize=4)
def _answers(endpoint: str, minute: int) -> bool:
    """Whether a server answers, whatever it says; ``minute`` makes the answer grow old."""
    try:
        huggingface_hub.get_session().head(endpoint, timeout=PATIENCE_S)
    except Exception:  # of many kinds, as the client's transport has them
        return False
    return True
