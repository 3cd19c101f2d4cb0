"""Ways of pointing without training: by attention, by the boxes that the reader names, by both."""

from flmm.ways.box_grounder import BoxBaseline, BoxGrounder, take_as_published
from flmm.ways.building import TRAINED, WAYS, configure_way, name_way
from flmm.ways.together import predict_together

__all__ = [
    "TRAINED",
    "WAYS",
    "BoxBaseline",
    "BoxGrounder",
    "configure_way",
    "name_way",
    "predict_together",
    "take_as_published",
]
