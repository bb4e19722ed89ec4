"""Probes: an HTTPS GET that goes the same way as a client's bytes, how often it is sent, and its results."""
