"""kubemux: stable local addresses for Kubernetes clusters that only let SSH through."""

from typing import Final

__version__: Final = "0.2.0"
"""pyproject.toml reads the version from here. importlib.metadata would cost the daemon 1.4 MB for this one
line.
"""
