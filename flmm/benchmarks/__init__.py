"""What pointing costs: flmm against F-LMM's way of reading attention, and the bare model."""
