"""Pods that find themselves: an API server tells the addresses of what is asked for as NAME.NAMESPACE."""
