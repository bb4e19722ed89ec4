"""kubemux: stable local addresses for Kubernetes clusters that only let SSH through."""

from importlib.metadata import version

__version__ = version("kubemux")
