"""What runs at a site: OpenSSH's client, by hand, as a systemd service, or in a Kubernetes pod. Pure.

    ssh -N -T -R factory-7:1080 -i ~/.ssh/factory-7 -p 2222 factory-7@bastion.example.com

The command itself has the bastion's host key (KnownHostsCommand), so that the site needs no known_hosts file.
KnownHostsCommand and PermitRemoteOpen need OpenSSH 8.5 (2021), `Ciphers=^` 8.0.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.config.matches import Match
from proxy.runtime.endpoint import Endpoint

IMAGE: Final = "docker.io/alpine/git"
"""It has OpenSSH's client, and runs as the user `nobody`."""
NOBODY: Final = 65534
"""ssh(1) does not run for a uid that the image's /etc/passwd does not have."""

_KEEPALIVE: Final = {"ServerAliveInterval": "5", "ServerAliveCountMax": "2", "ConnectTimeout": "10"}
_CIPHERS: Final = "^aes128-gcm@openssh.com"
"""Put in front of ssh's own ciphers. The first of those, chacha20-poly1305, costs more CPU
(docs/performance.md).
"""
_ANY_PORT: Final = (1, 65535)
_RESTARTING: Final = "trap 'kill $!; exit 0' TERM; while :; do ssh \"$@\" & wait $!; sleep 1; done"
"""The shell restarts ssh after a second. Kubernetes would wait longer after each restart, up to 5 minutes."""


@dataclass(frozen=True, slots=True)
class FarSide:
    """What the machine of a site needs to know."""

    name: str
    server: Endpoint
    """The address at which the site dials the SSH server."""
    host_keys: Sequence[str]
    """The host keys of the SSH server, as `ssh-ed25519 BASE64`."""
    permit: Sequence[Match]
    port: int
    """The port of the dynamic forward. It is only a part of the forward's name: no machine listens on it."""

    def command(self, key: str) -> str:
        """A shell command. `key` is the path of the private key, as the shell expands it."""
        words = [f"-o {option}" for option in map(shlex.quote, self._options())]
        first = f"ssh -N -T -R {self._forward} -i {key} -p {self.server.port}"
        lines = [first, *words, f"{self.name}@{self._host}"]
        return "".join(map(_comment, self.wider())) + " \\\n    ".join(lines) + "\n"

    def wider(self) -> list[str]:
        """A warning for items of `permit` that PermitRemoteOpen cannot express; empty if there are none."""
        odd = [f"{match} is {_in_openssh(match)} there" for match in self.permit if not _is_exact(match)]
        if not odd:
            return []
        return [
            "PermitRemoteOpen has neither networks, nor parts of names, nor ranges of ports:",
            f"{', '.join(odd)}.",
            "The bastion still refuses what its own `permit` does not name.",
        ]

    @property
    def _forward(self) -> str:
        return f"{self.name}:{self.port}"

    @property
    def _host(self) -> str:
        return self.server.host

    def _options(self) -> list[str]:
        there = _known_as(self.server)
        known = r"\n".join(f"{there} {key}" for key in self.host_keys)
        opens = list(dict.fromkeys(map(_in_openssh, self.permit)))
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            **_KEEPALIVE,
            "ExitOnForwardFailure": "yes",
            "StrictHostKeyChecking": "yes",
            "Ciphers": _CIPHERS,
            "KnownHostsCommand": f"/bin/echo {'-e ' if len(self.host_keys) > 1 else ''}{known}",
            "PermitRemoteOpen": " ".join(opens or ["none"]),
        }
        return [f"{key}={value}" for key, value in options.items()]

    def _words(self, key: str) -> list[str]:
        """The arguments of ssh for a service, which ignores ssh's configuration files."""
        words = ["-F", "none", "-N", "-T", "-R", self._forward, "-i", key, "-p", str(self.server.port)]
        return [
            *words,
            *(word for one in self._options() for word in ("-o", one)),
            f"{self.name}@{self._host}",
        ]

    # ---------------------------------------------------------------------------------------- systemd

    def unit(self) -> str:
        """A unit for systemd 247 or later."""
        arguments = " \\\n    ".join(_lines(self._words("${CREDENTIALS_DIRECTORY}/key")))
        return _UNIT.format(
            name=self.name,
            server=self.server,
            wider="".join(map(_comment, self.wider())),
            arguments=arguments,
        )

    # ------------------------------------------------------------------------------------- Kubernetes

    def deployment(self, image: str) -> str:
        """A Deployment, as YAML."""
        slug = re.sub(r"[^a-z0-9-]+", "-", self.name)[:50].strip("-")
        words = [_RESTARTING, "ssh", *self._words("/etc/kubemux-site/key")]
        return _DEPLOYMENT.format(
            name=self.name,
            slug=slug,
            image=json.dumps(image),
            nobody=NOBODY,
            wider="".join(map(_comment, self.wider())),
            arguments="".join(f"\n            - {json.dumps(word)}" for word in words),
        )


def _comment(line: str) -> str:
    return f"# {line}\n"


def _lines(words: Sequence[str]) -> Iterator[str]:
    """The lines of a command for ExecStart=: each line has one option and its value."""
    line: list[str] = []
    for word in map(_quoted, words):
        if line and word.startswith("-"):
            yield " ".join(line)
            line = []
        line.append(word)
    *option, last = line
    yield " ".join(option)
    yield last


def _quoted(word: str) -> str:
    if " " not in word:
        return word
    escaped = word.replace("\\", "\\\\")
    return f'"{escaped}"'


def _known_as(server: Endpoint) -> str:
    return server.host if server.port == 22 else f"[{server.host}]:{server.port}"


def _is_exact(match: Match) -> bool:
    is_one = match.is_one_host or (
        match.network is not None and match.network.prefixlen == match.network.max_prefixlen
    )
    return (is_one or match.host == "*") and (match.first == match.last or _is_any_port(match))


def _is_any_port(match: Match) -> bool:
    return (match.first, match.last) == _ANY_PORT


def _in_openssh(match: Match) -> str:
    """The narrowest pattern of PermitRemoteOpen (ssh_config(5)) that includes `match`."""
    is_wide = match.stars or (
        match.network is not None and match.network.prefixlen < match.network.max_prefixlen
    )
    host = "*" if is_wide else f"[{match.host}]" if ":" in match.host else match.host
    return f"{host}:{match.first if match.first == match.last else '*'}"


_UNIT: Final = """\
# /etc/systemd/system/kubemux-site-{name}.service
# The private key: install -D -m 400 ~/.ssh/{name} /etc/kubemux-site/{name}
# To start it: systemctl daemon-reload && systemctl enable --now kubemux-site-{name}
# Without libnss-systemd, ssh does not know the user that systemd makes up: useradd --system kubemux-site
[Unit]
Description=Site {name} of kubemux at {server}
Wants=network-online.target
After=network-online.target nss-lookup.target
# Never give up: no limit on how often it may be started again.
StartLimitIntervalSec=0

[Service]
{wider}ExecStart=/usr/bin/ssh \\
    {arguments}
LoadCredential=key:/etc/kubemux-site/{name}
Restart=always
RestartSec=1

User=kubemux-site
DynamicUser=yes
UMask=0077
LimitCORE=0
CapabilityBoundingSet=
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateIPC=yes
PrivateUsers=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
# Not ~@privileged: before ssh starts a KnownHostsCommand, it sets its uid to what it is already.
SystemCallFilter=@system-service
SystemCallFilter=~@resources

[Install]
WantedBy=multi-user.target
"""

_DEPLOYMENT: Final = """\
# The private key: kubectl create secret generic kubemux-site-{slug} --from-file=key=$HOME/.ssh/{name}
# The image: any with OpenSSH 8.5 or later and a shell; name a version or digest that you have looked at.
# 127.0.0.1 is the pod itself: the API server of its cluster is kubernetes.default.svc:443.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: kubemux-site-{slug}
  labels:
    app.kubernetes.io/name: kubemux-site
    app.kubernetes.io/instance: {slug}
spec:
  replicas: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: kubemux-site
      app.kubernetes.io/instance: {slug}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: kubemux-site
        app.kubernetes.io/instance: {slug}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 5
      securityContext:
        runAsNonRoot: true
        runAsUser: {nobody}
        runAsGroup: {nobody}
        fsGroup: {nobody}
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: ssh
          image: {image}
          command: ["/bin/sh", "-c"]
{wider}          args:{arguments}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: ["ALL"]
          resources:
            requests:
              cpu: 10m
              memory: 16Mi
            limits:
              memory: 128Mi
          volumeMounts:
            - name: key
              mountPath: /etc/kubemux-site
              readOnly: true
      volumes:
        - name: key
          secret:
            secretName: kubemux-site-{slug}
            # The file belongs to root, and fsGroup may read it. ssh refuses a key file of its own user that
            # others may read.
            defaultMode: 0440
"""
