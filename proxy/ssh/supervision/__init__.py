"""Keeps a gateway's links up: dials, watches, replaces and retires them."""
