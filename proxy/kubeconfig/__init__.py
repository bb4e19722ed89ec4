"""Kubeconfigs: exported so that any client finds the listeners, imported so that nobody types addresses and
CAs.
"""
