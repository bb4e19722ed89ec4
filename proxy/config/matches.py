"""The patterns of a route, for names, networks and ports, and its target.

    node-*:10250         each `*` stands for one character or more within a label
    **.eu.internal:22    `**` stands for one label or more
    10.0.0.0/16:22       the addresses of a network; [fd00::/8]:22
    db:2000-2999, db:*   a range of ports, or any port

Name patterns match only names, and networks match only addresses. A client cannot avoid a network by another
form of an address, such as `10.1` or `0x0a000001`, because `Host` refuses these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Final, Self

from proxy.config.written import Written, from_text
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import escaped, shown

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""What inet_aton(3) accepts as an address, or as the last part of one."""
_STARRED_ADDRESS: Final = re.compile(r"(?=.*[0-9])(?=.*\*)[0-9.*]+", re.ASCII)
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?|\*", re.ASCII)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_BLANK: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Host:
    """A requested host: an address, or the labels of a host name, in lower case."""

    address: IPv4Address | IPv6Address | None
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.address or ".".join(self.labels))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a host name or an address, without brackets. Raises ValueError.

        An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 address.
        """
        if not text.isascii() or "%" in text or len(text) > 254:
            raise ValueError(f"{shown(text)} is neither a host name nor an address")
        try:
            address = ip_address(text)
        except ValueError:
            labels = tuple(text.lower().removesuffix(".").split("."))
            if not all(len(label) <= 63 and _LABEL.fullmatch(label) for label in labels):
                raise ValueError(f"{shown(text)} is neither a host name nor an address") from None
            if _NUMBER.fullmatch(labels[-1]):
                raise ValueError(f"{shown(text)} is no address, and no name ends in a number") from None
            return cls(None, labels)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if (mapped or address).is_unspecified:  # connect(2) would take it for loopback
            raise ValueError(f"{shown(text)} is the address of no host (RFC 1122 3.2.1.3)")
        return cls(mapped or address)


@dataclass(frozen=True, slots=True)
class Match:
    """One pattern of a route's `match`: a name with stars, or a network; and a range of ports."""

    host: str
    network: IPv4Network | IPv6Network | None
    first: int
    last: int
    _labels: tuple[re.Pattern[str] | None, ...] = field(default=(), compare=False, repr=False)
    """A pattern for each label of a name; None stands for `**`."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{'*' if (self.first, self.last) == (1, 65535) else self.ports}"

    @property
    def ports(self) -> str:
        """`22`, or a range: `2000-2999`."""
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def stars(self) -> int:
        """How many captures it has; `**` counts as one."""
        return self.host.replace("**", "*").count("*")

    @property
    def is_one_host(self) -> bool:
        """Whether it matches one name and no other."""
        return self.network is None and not self.stars

    def covers(self, other: Match) -> bool:
        """Whether it surely matches all that `other` matches. True only for the same host with fewer ports,
        for one name, and for a network inside this one: two patterns with stars are not compared.
        """
        if not self.first <= other.first <= other.last <= self.last:
            return False
        if isinstance(self.network, IPv4Network) and isinstance(other.network, IPv4Network):
            return other.network.subnet_of(self.network)
        if isinstance(self.network, IPv6Network) and isinstance(other.network, IPv6Network):
            return other.network.subnet_of(self.network)
        if self.host == other.host:
            return True
        return other.is_one_host and self.captures(Host.parse(other.host), other.first) is not None

    def meets(self, other: Match) -> bool:
        """Whether a host and port may match both. False only if that is certain: of two names with stars, the
        last labels are compared, up to the first star.
        """
        first = max(self.first, other.first)
        if first > min(self.last, other.last):
            return False
        if self.network is not None and other.network is not None:
            return self.network.overlaps(other.network)
        if self.network is not None or other.network is not None:
            return False
        for one, another in ((self, other), (other, self)):
            if one.is_one_host:
                return another.captures(Host.parse(one.host), first) is not None
        for mine, theirs in zip(self.host.split(".")[::-1], other.host.split(".")[::-1], strict=False):
            if "*" in mine + theirs:
                break
            if mine != theirs:
                return False
        return True

    def captures(self, host: Host, port: int) -> tuple[str, ...] | None:
        """The text that each star matches; None if the pattern does not match."""
        if not self.first <= port <= self.last:
            return None
        if self.network is not None or host.address is not None:
            is_inside = self.network is not None and host.address is not None and host.address in self.network
            return () if is_inside else None
        spare = len(host.labels) - len(self._labels)
        if spare < 0 or (spare and None not in self._labels):
            return None
        found: list[str] = []
        labels = list(host.labels)
        for pattern in self._labels:
            if pattern is None:
                found.append(".".join(labels[: spare + 1]))
                del labels[: spare + 1]
            elif (one := pattern.fullmatch(labels.pop(0))) is not None:
                found += one.groups()
            else:
                return None
        return tuple(found)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORTS` or `[IPV6]:PORTS`. Raises ValueError, which says what is expected."""
        host, _, ports = text.rpartition(":")
        bracketed = text.startswith("[")
        if not text or text.startswith(":"):
            raise ValueError(f"expected HOST:PORT, got {shown(text)}")
        scheme, is_url, _ = text.partition("://")
        if is_url:
            raise ValueError(f"expected HOST:PORT, without {scheme[:20]}://, got {shown(text)}")
        if not host or (bracketed and text.endswith("]")):
            name = escaped(text[:60])
            raise ValueError(f"{shown(text)} has no port: write {name}:22, or {name}:* for any port")
        if (":" in host) != bracketed or bracketed != host.endswith("]"):
            raise ValueError(f"expected HOST:PORT, or [IPV6]:PORT with brackets, got {shown(text)}")
        first, last = _ports(ports, text)
        host = host.strip("[]").lower()
        network = _network(host)
        if network is not None:
            return cls(str(network).removesuffix(f"/{network.max_prefixlen}"), network, first, last)
        host = host.removesuffix(".")
        return cls(host, None, first, last, _patterns(host))


def _ports(text: str, whole: str) -> tuple[int, int]:
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected a port, a range like 2000-2999, or * after the last colon of {shown(whole)}"
        )
    first = int(match[1] or 1)
    last = int(match[2] or match[1] or 65535)
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text} is not a range within 1-65535")
    return first, last


def _network(host: str) -> IPv4Network | IPv6Network | None:
    """`host` as a network, None if it is not one. A single address is the smallest network."""
    if "%" in host and ":" in host:
        raise ValueError(f"{shown(host)}: an address with an interface cannot be matched")
    try:
        network = ip_network(host, strict=False)
        address = ip_address(host.partition("/")[0])
    except ValueError as exc:
        if "/" in host or ":" in host:
            raise ValueError(
                f"{shown(host)} is no network; write one like 10.0.0.0/16 or [fd00::/8]"
            ) from exc
        return None
    if "/" in host and address != network.network_address:
        raise ValueError(f"{shown(host)} is an address within a network: write {network}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"{shown(host)} are IPv4 addresses written as IPv6: write them as IPv4")
    return network


def _patterns(host: str) -> tuple[re.Pattern[str] | None, ...]:
    if _STARRED_ADDRESS.fullmatch(host):
        raise ValueError(f"{shown(host)}: stars stand for parts of names; write a network like 10.0.0.0/16")
    labels = host.split(".")
    if labels.count("**") > 1 or any("**" in label and label != "**" for label in labels):
        raise ValueError(f"{shown(host)}: ** stands for whole labels between dots, once in a pattern")
    Host.parse(host.replace("**", "a").replace("*", "a"))
    return tuple(None if label == "**" else _pattern(label) for label in labels)


def _pattern(label: str) -> re.Pattern[str]:
    """A regular expression without backtracking: each star matches as little as possible and never more
    (`(?>`), the last one matches the rest. So the time is proportional to the label's length.
    """
    head, *pieces = map(re.escape, label.split("*"))
    if not pieces:
        return re.compile(head)
    *inner, tail = pieces
    return re.compile(head + "".join(f"(?>(.+?){piece})" for piece in inner) + f"(.+){tail}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a route: an address with the placeholders `{host}`, `{port}` and `{1}`."""

    host: str
    port: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def stars(self) -> int:
        """The highest number of a capture in it; 0 if it has none."""
        return max((int(name) for name in _BLANK.findall(self.host) if name.isdecimal()), default=0)

    @property
    def fixed(self) -> Endpoint | None:
        """The address, if the target has no placeholders; otherwise None."""
        return None if _BLANK.search(f"{self.host}{self.port}") else Endpoint(self.host, int(self.port))

    def fill(self, host: Host, port: int, captures: tuple[str, ...]) -> Endpoint:
        """The address for a client that asks for `host` and `port`.

        Raises ValueError if the result is not a valid address.
        """
        values = {"host": str(host), "port": str(port)}
        values |= {str(number): capture for number, capture in enumerate(captures, 1)}
        filled = _BLANK.sub(lambda blank: values[blank[1]], self.host)
        endpoint = Endpoint.parse(f"[{filled}]:{port}" if ":" in filled else f"{filled}:{port}")
        Host.parse(endpoint.host)
        return endpoint._replace(port=port if self.port == "{port}" else int(self.port))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `HOST:PORT` with placeholders. Raises ValueError, which says what is expected."""
        strange = [name for name in _BLANK.findall(text) if not re.fullmatch(r"host|port|[1-9][0-9]?", name)]
        if strange:
            raise ValueError(
                f"{{{strange[0][:60]}}} stands for nothing: there are {{host}}, {{port}}, {{1}}, {{2}}"
            )
        host, _, port = text.rpartition(":")
        sample = _BLANK.sub("a", host) + ":" + ("1" if port == "{port}" else port)
        try:
            Host.parse(Endpoint.parse(sample).host)
        except ValueError as exc:
            blanks = "{host}, {port} or {1} for what was asked for"
            raise ValueError(f"expected HOST:PORT, with {blanks}, got {shown(text)}") from exc
        return cls(host.strip("[]"), port)


Pattern = Annotated[Match, Written(from_text(Match, "HOST:PORT"), r"^.+:([0-9]{1,5}(-[0-9]{1,5})?|\*)$")]
"""What a client may ask for."""

Leading = Annotated[Target, Written(from_text(Target, "HOST:PORT"), r"^.+:([0-9]{1,5}|\{port\})$")]
"""The target of a route."""


def _host_name(value: str) -> str:
    if Host.parse(value).address is not None:
        raise ValueError(f"{shown(value)} is an address, not a name")
    return value


HostName = Annotated[str, Written(_host_name, r"^[A-Za-z0-9_.-]{1,254}$")]
"""A name that clients may ask for."""
