"""What the frozen models computed, kept on disk: attention maps, text features, image encodings.

In: a picture and its continuations. Out: what was computed for them before, and room for what was
not. Knows neither readers nor refiners; the grounder asks it, the engine opens and closes it.
"""

from flmm.features.cache import FeatureCache, PhraseLookup
from flmm.features.phrases import split_phrases

__all__ = ["FeatureCache", "PhraseLookup", "split_phrases"]
