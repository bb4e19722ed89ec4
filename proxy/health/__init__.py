"""Probes: one HTTPS GET through the path a client takes, its schedule, and what its results mean."""
