"""Drawn scenes and how the embedded tiny model was made of them.

Scenes, sentences and files (``shape_*``, ``shapes``) serve demos, tests and benchmarks too; the
rest serves ``tools/make_tiny_model.py`` alone.
"""
