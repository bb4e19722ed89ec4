"""What `permitopen=` and `permitlisten=` allow: `HOST:PORT`, `[IPV6]:PORT`, and `*` for any. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

_FORM: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]\s]+)):(\d{1,5}|\*)", re.ASCII)


class Permit(NamedTuple):
    """One host and port."""

    host: str
    """In lower case; `*` and `?` are wildcards."""
    port: int | None
    """None is any."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{'*' if self.port is None else self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`. Raises ValueError."""
        match = _FORM.fullmatch(text)
        if match is None or (match[3] != "*" and not 1 <= int(match[3]) <= 65535):
            raise ValueError(f"{text[:80]!r} is not HOST:PORT")
        return cls((match[1] or match[2]).lower(), None if match[3] == "*" else int(match[3]))

    def covers(self, host: str, port: int) -> bool:
        """Whether it allows `host` and `port`. Upper and lower case are the same."""
        if self.port not in {None, port}:
            return False
        return _matches(self.host, host.lower())


def _matches(pattern: str, host: str) -> bool:
    if pattern == host or pattern == "*":
        return True
    if not {"*", "?"} & set(pattern):
        return False
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, host, re.DOTALL) is not None
