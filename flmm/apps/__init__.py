"""What people run: the demo, a terminal, the page, explanations, the visual chain."""
