"""Warns root of files that the system service cannot read.

Root can read every file, so `kubemux check` would call a host key good that root has made, and the service
would not start. The service runs as the user `kubemux` (systemd/kubemux.sysusers.conf).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxy.config import credentials
from proxy.config.credential_file import denied_hint
from proxy.config.file_paths import credentials_directory
from proxy.config.findings import dotted
from proxy.config.model import Config
from proxy.config.references import references, sections

SERVICE: Final = "kubemux"


def warnings(config: Config) -> Iterator[tuple[str, str]]:
    """A warning and a remedy for each file that the service may not read, if this is root.

    There are none if this machine has no user `kubemux`, as with DynamicUser= (systemd.exec(5)).
    """
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(SERVICE)
    except KeyError:
        return
    with _acting_as(user):
        denied = set(credentials.denied(config))
    for where, section in sections(config).items():
        for below, path, kind in references(section):
            if path in denied and not _is_credential(path):
                hint = (
                    denied_hint(path, kind)
                    or f"let it read the file; to try: runuser -u {SERVICE} -- cat {path}"
                )
                key = dotted((*where, *below))
                yield f"{key}: {path} may not be read by {SERVICE}, the user of the service", hint


def _is_credential(path: Path) -> bool:
    """Whether systemd reads the file, as root, and gives the service a copy."""
    return path.is_relative_to(credentials_directory())


@contextmanager
def _acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Give this process, with all its threads, the rights of `user` until the block ends."""
    groups, group = os.getgroups(), os.getegid()
    os.initgroups(user.pw_name, user.pw_gid)
    try:
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
