"""Panoptic Narrative Grounding as grounding samples."""
