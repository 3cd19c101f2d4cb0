"""Joins reader, mask head and refiner; phrases to masks, for training and for use."""

from flmm.grounder.grounder import FrozenQwenSAM, Grounder
from flmm.grounder.readings import Reading, ground_parts, ground_readings, read_images

__all__ = ["FrozenQwenSAM", "Grounder", "Reading", "ground_parts", "ground_readings", "read_images"]
