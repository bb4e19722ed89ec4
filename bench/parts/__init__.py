"""What the parts inside the process cost, each by itself: `make bench-parts`, next to the figures that were
kept.
"""
