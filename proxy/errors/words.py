"""The type of a reason: a word, with what it can be about, its meaning and its remedy."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Subject(StrEnum):
    """What a reason is about. Each member lists the places where a user sees such reasons."""

    GATEWAY = "gateway"
    """`status` of a gateway; `gateway_connects_total{result}`, `gateway_reconnects_total{reason}`; the links'
    log.
    """
    PROBE = "probe"
    """`status` of a cluster; `kubemux probe`; `probes_total{result}`."""
    CLIENT = "client"
    """`connections_total{result}`; the log of connections."""
    LOGIN = "login"
    """`ssh_logins_total{result}`; the log of the SSH server."""
    DAEMON = "daemon"
    """What the daemon or a command could not do."""


class Word(StrEnum):
    """One word, with the `subjects` that it can be about, its meaning, and a remedy if there is one."""

    subjects: tuple[Subject, ...]
    meaning: str
    remedy: str

    def __new__(
        cls, word: str, subjects: tuple[Subject, ...] = (), meaning: str = "", remedy: str = ""
    ) -> Self:
        one = str.__new__(cls, word)
        one._value_ = word
        one.subjects, one.meaning, one.remedy = subjects, meaning, remedy
        return one
