"""The root of all errors: a reason, a sentence for an operator, and a hint."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy.errors.reasons import Reason


class Stage(StrEnum):
    """The steps of a connection to an API server, in order (`kubemux probe` prints a line for each)."""

    TCP = "tcp"
    SSH = "ssh"
    AUTH = "auth"
    CHANNEL = "channel"
    TLS = "tls"
    HTTP = "http"


class ProxyError(Exception):
    """The base class. `str()` is one sentence for an operator; `hint` says what to do."""

    reason: ClassVar[Reason] = Reason.INTERNAL
    hint: str = Reason.INTERNAL.remedy

    def __init_subclass__(cls) -> None:
        own = vars(cls)
        if "reason" in own and "hint" not in own:
            cls.hint = cls.reason.remedy

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint
