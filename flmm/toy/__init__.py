"""Drawn scenes (``shape*``), and how ``tools/make_tiny_model.py`` makes the embedded model."""
