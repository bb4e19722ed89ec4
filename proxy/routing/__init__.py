"""Routing: to which cluster or route a requested name leads, and who may use it. Pure: no I/O."""
