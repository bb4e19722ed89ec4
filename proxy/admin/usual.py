"""The `admin.socket` that the docs and hints propose."""

from __future__ import annotations

from typing import Final

from proxy.config.file_paths import has_home, is_for_system_service

OF_SERVICE: Final = "/run/kubemux/admin.sock"
OF_PERSON: Final = "~/.config/kubemux/admin.sock"
"""The folder exists, because the configuration file is in it."""


def proposed() -> str:
    """The `admin.socket` to propose in a hint. /run/kubemux belongs to the system service."""
    return OF_PERSON if has_home() and not is_for_system_service() else OF_SERVICE
