"""Keeps the links of a gateway up: dials, watches, replaces and retires them."""
