"""kubemux: stable local addresses for Kubernetes clusters that only let SSH through."""

from typing import Final

__version__: Final = "0.2.0"
"""Here, and pyproject.toml takes it from here: importlib.metadata was 1.4 MB of the daemon, for this one
line.
"""
