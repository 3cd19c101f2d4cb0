"""How the embedded tiny model was made: scenes and text in, weights of ``flmm/assets`` out.

Only ``tools/make_tiny_model.py`` uses this room; nothing else in flmm imports it.
"""
