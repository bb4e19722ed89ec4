"""Draws random ssh_configs from a grammar: `Host` and `Match` blocks with the options that decide the
address, the user, the keys and the host keys of a connection.

Values come from a `World`, so that most of them work: addresses with a listener, keys that exist and keys
that do not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ALIAS = "edge"
GATE = "gate"


@dataclass(frozen=True, slots=True)
class World:
    """What drawn options may refer to."""

    folder: Path
    ports: list[int]
    gate: int
    keys: list[Path]
    """Private keys that can be used."""
    locked: Path
    public: Path
    """A public key file; only the agent has its private key."""
    certified: Path
    """A key with its certificate in the same folder; `elsewhere` is another certificate of it."""
    elsewhere: Path
    agent: Path
    known_hosts: list[Path]
    recorder: Path
    """A program for ProxyCommand that writes its arguments to `recorded`."""


@dataclass(slots=True)
class Drawn:
    """One ssh_config, and the user and port that ssh and kubemux get as arguments.

    `options` counts the options that were drawn.
    """

    text: str
    user: str | None = None
    port: int | None = None
    options: Counter[str] = field(default_factory=Counter)


def draw(random: Random, world: World) -> Drawn:
    """Draw an ssh_config; the same state of `random` gives the same."""
    drawn = Drawn("BatchMode yes\nStrictHostKeyChecking yes\n")
    blocks = [_block(random, world, drawn) for _ in range(random.randint(1, 5))]
    if random.random() < 0.25:
        (world.folder / "included").write_bytes(b"# caf\xe9\n" + _block(random, world, drawn).encode())
        blocks.insert(random.randint(0, len(blocks)), f"Include {world.folder}/includ*\n")
        drawn.options["include"] += 1
    text = "".join(blocks)
    if drawn.options["proxyjump"]:
        # Without this, ssh(1) would jump through the gate to reach the gate, without end.
        text = (
            f"Host {GATE}\n  ProxyJump none\n{text}Host {GATE}\n  HostName 127.0.0.1\n  Port {world.gate}\n"
        )
    # Defaults for what the blocks above leave open, so that most dials get as far as the login.
    text += (
        f"Host *\n  HostName 127.0.0.1\n  Port {world.ports[0]}\n  UserKnownHostsFile "
        f"{world.known_hosts[0]}\n"
    )
    drawn.text += text + f"  IdentityFile {world.keys[0]}\n"
    if random.random() < 0.2:
        drawn.user = "given"
        drawn.options["-l"] += 1
    if random.random() < 0.2:
        drawn.port = random.choice(world.ports)
        drawn.options["-p"] += 1
    return drawn


def _block(random: Random, world: World, drawn: Drawn) -> str:
    head = random.choice(
        [
            *(
                "",
                f"Host {ALIAS}",
                "Host e*",
                f"Host !{ALIAS} *",
                f"Host other {ALIAS}",
                "Host *",
                f"Host {GATE}",
                "Match all",
            ),
            *(
                f"Match originalhost {ALIAS}",
                "Match host 127.*",
                "Match user given,alice",
                'Match exec "test %p = 22"',
            ),
            *(
                f'Match exec "test %n = {ALIAS}"',
                "Match final",
                "Match !final originalhost e*",
                f"Match originalhost {GATE}",
            ),
        ]
    )
    drawn.options[
        " ".join(head.lower().split()[:2]) if head.startswith("Match") else head.partition(" ")[0].lower()
    ] += 1
    lines = [head]
    for _ in range(random.randint(1, 4)):
        option, value = random.choice(_options(random, world))
        drawn.options[option.lower()] += 1
        lines.append(
            random.choice(["  {} {}", "\t{}={}", "  {} = {}", "{}  {}  "]).format(
                _cased(random, option), value
            )
        )
        if option not in ("ProxyCommand", "ProxyJump") and random.random() < 0.15:
            lines[-1] += " # a remark"
            drawn.options["# at the end"] += 1
    return "\n".join(lines) + "\n"


def _cased(random: Random, option: str) -> str:
    return random.choice([option, option, option.lower(), option.upper()])


def _options(random: Random, world: World) -> list[tuple[str, str]]:
    """Each option with one value; the most important options several times, so that they are drawn more
    often.
    """
    folder, pick = world.folder, random.choice
    keys = [
        *map(str, world.keys),
        f"{folder}/missing",
        f'"{world.keys[1]}"',
        "${KEYS}/key1",
        f"{folder}/key-%r",
        f"{folder}/%n.key",
    ]
    keys += [str(world.locked), str(world.public), str(world.certified), f"{folder}/key%%", "none"]
    known = [
        *map(str, world.known_hosts),
        f"{folder}/missing {world.known_hosts[0]}",
        f"{folder}/known_%h",
        "none",
    ]
    return [
        ("HostName", pick(["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", '"127.0.0.2"'])),
        ("Port", str(pick(world.ports))),
        ("User", pick(["alice", "bob", '"with space"'])),
        ("BindAddress", pick(["127.0.0.1", "127.0.0.3", "127.0.0.9"])),
        ("AddressFamily", pick(["inet", "any"])),
        ("HostKeyAlias", pick(["bastion", "BASTION", "wrong", "nobody"])),
        ("IdentityFile", pick(keys)),
        ("IdentityFile", pick(keys)),
        ("CertificateFile", pick([str(world.elsewhere), f"{folder}/missing"])),
        ("IdentitiesOnly", pick(["yes", "no"])),
        ("IdentityAgent", pick([str(world.agent), '"${AGENT}"', "none"])),
        ("UserKnownHostsFile", pick(known)),
        ("GlobalKnownHostsFile", pick([*map(str, world.known_hosts), f"{folder}/missing"])),
        ("Ciphers", pick(["^aes256-ctr", "-chacha20*", "+3des-cbc", "aes128-gcm@openssh.com,aes256-ctr"])),
        (
            "KexAlgorithms",
            pick(["-ecdh*", "curve25519-sha256,ecdh-sha2-nistp256", "+diffie-hellman-group14-sha1"]),
        ),
        ("MACs", pick(["hmac-sha2-256,hmac-sha2-512", "-hmac-sha1*", "^hmac-sha2-512"])),
        ("HostKeyAlgorithms", pick(["-rsa*", "+ssh-rsa", "ssh-ed25519", "^ssh-ed25519", "rsa-sha2-512"])),
        ("PubkeyAcceptedAlgorithms", pick(["ssh-ed25519", "-ssh-ed25519*", "-*cert*", "^rsa-sha2-256"])),
        ("PubkeyAuthentication", pick(["host-bound", "unbound", "yes"])),
        ("ServerAliveInterval", pick(["1m", "30"])),
        ("ConnectTimeout", pick(["1m", "20"])),
        ("ProxyCommand", pick([f"{world.recorder} %h %p %r %n %% '%h'", "none"])),
        ("ProxyJump", pick([GATE, f"carol@{GATE}", f"{GATE},dave@{GATE}", "none"])),
        ("ProxyJump", pick([GATE, f"carol@{GATE}:{world.gate}"])),
        ("Compression", pick(["yes", "no"])),
        ("TCPKeepAlive", "no"),
        ("RekeyLimit", "1G 1h"),
    ]
