"""What the frozen models computed, kept on disk: attention maps, text features, image encodings."""

from flmm.features.cache import FeatureCache, split_phrases

__all__ = ["FeatureCache", "split_phrases"]
