"""What the frozen models computed, kept on disk: attention maps, text features, image encodings.

In: a picture and its continuations. Out: what was computed for them before, and room for what was
not. Knows neither readers nor refiners; the grounder asks it, the training opens it.
"""

from flmm.features.cache import FeatureCache
from flmm.features.phrases import split_phrases

__all__ = ["FeatureCache", "split_phrases"]
