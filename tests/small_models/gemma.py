"""Gemma 3, Gemma 4 and PaliGemma 1 and 2: their stand-ins, shrunk."""

from __future__ import annotations

from tests.small_models.base import StandInFamily

FAMILIES = [
    StandInFamily("gemma3", "Gemma-3-4B"),
    StandInFamily("gemma4", "Gemma-4-26B-A4B"),
    StandInFamily("gemma4_shared_keys", "Gemma-4-E2B"),
    StandInFamily("paligemma", "PaliGemma-3B-224"),
    StandInFamily("paligemma2", "PaliGemma2-3B-224"),
]
