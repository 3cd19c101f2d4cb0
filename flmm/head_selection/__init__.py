"""Which heads of a frozen reader point: told by labels, or found without any.

In: a reader and pictures with phrases. Out: a :class:`~flmm.head_choice.HeadChoice` of all heads,
the most pointing first. No trained head and no refiner takes part; masks are another room's duty.
"""

from flmm.head_selection.labelled import rank_heads
from flmm.head_selection.samples import build_reader, load_samples
from flmm.head_selection.unlabelled import choose_heads

__all__ = ["build_reader", "choose_heads", "load_samples", "rank_heads"]
