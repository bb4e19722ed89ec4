"""Routing: finds the cluster, route or site of a requested name, and checks `allow` lists. Pure: no I/O."""
