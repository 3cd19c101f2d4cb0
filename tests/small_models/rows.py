"""Pixtral, Mistral 3, GLM-4.xV and Fuyu: their stand-ins, shrunk."""

from tests.small_models.base import StandInFamily

FAMILIES = [
    StandInFamily("pixtral", "Pixtral-12B"),
    StandInFamily("mistral3", "Mistral-Small-3.1-24B"),
    StandInFamily("glm4v", "GLM-4.1V-9B"),
    StandInFamily("glm4v_moe", "GLM-4.5V"),
    StandInFamily("fuyu", "Fuyu-8B"),
]
