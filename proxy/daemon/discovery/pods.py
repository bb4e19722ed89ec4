"""Parses an API server's answers about pods: a list's pages and a watch's lines become a table of addresses.

For the protocol see https://kubernetes.io/docs/reference/using-api/api-concepts/. Nothing here does I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from proxy.runtime.text import shown

MAX_PODS: Final = 20_000
"""The maximum number of pods of a route, far more than usual. A pod takes about 300 bytes here."""


class Expired(Exception):
    """The API server no longer has the requested version (410 Gone): the pods must be listed again."""


class Unusable(Exception):
    """The answer is not a valid answer about pods; `str()` says what is wrong with it."""


class Pod(NamedTuple):
    """One pod of the table."""

    address: str
    """Its address; empty if clients cannot be connected to it."""
    why: str
    """Why clients cannot be connected to it, for example `is Pending`."""


Pods = dict[str, Pod]
"""Pods by `NAME.NAMESPACE`. A namespace has no dot, so this is unambiguous even if a pod's name has one."""


class Page(NamedTuple):
    """One page of a list."""

    pods: Pods
    version: str
    more: str
    """The `continue` token for the next page; empty on the last page."""


def page(body: bytes) -> Page:
    """Read one page of a list. Raises Unusable."""
    match _json(body):
        case {"metadata": {"resourceVersion": str() as version, **metadata}, "items": list() as items}:
            more = metadata.get("continue", "")
            pods = dict(_pod(item) for item in items)
            if isinstance(more, str):
                return Page(pods, version, more)
    raise Unusable("it is no list of pods")


def apply(line: bytes, pods: Pods) -> str:
    """Apply one line of a watch to `pods`. Returns the resourceVersion from which to continue.

    Raises Unusable, or Expired if that version is too old; then `pods` has not changed.
    """
    match _json(line):
        case {"type": "ERROR", "object": {"code": 410}}:
            raise Expired
        case {"type": "ERROR", "object": {"message": str() as message}}:
            raise Unusable(f"the API server ended the watch: {shown(message)}")
        case {"type": str() as kind, "object": {"metadata": {"resourceVersion": str() as version}} as item}:
            if kind == "BOOKMARK":
                return version
            name, pod = _pod(item)
            if kind == "DELETED":
                pods.pop(name, None)
            elif kind in {"ADDED", "MODIFIED"}:
                pods[name] = pod
                check_number(pods)
            else:
                raise Unusable(f"{shown(kind)} is no event of a watch")
            return version
    raise Unusable("it is no event of a watch")


def check_number(pods: Pods) -> None:
    """Raise Unusable if there are too many pods."""
    if len(pods) > MAX_PODS:
        raise Unusable(f"more than {MAX_PODS} pods have these labels: a narrower selector is needed")


def error_message(body: bytes) -> str:
    """The message in an answer other than 200: that of the API server's Status object, or else the body's
    text.
    """
    try:
        match _json(body):
            case {"message": str() as message}:
                return message
    except Unusable:
        pass
    return body.decode("utf-8", "replace")


def _json(data: bytes) -> object:
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Unusable("it is not JSON") from exc
    return document


def _pod(item: object) -> tuple[str, Pod]:
    match item:
        case {
            "metadata": {"name": str() as name, "namespace": str() as namespace, **metadata},
            "status": dict() as status,
        } if 0 < len(name) <= 253 and 0 < len(namespace) <= 63:
            return f"{name}.{namespace}", _known(metadata, status)
    raise Unusable("an item of it is no pod")


def _known(metadata: Mapping[object, object], status: Mapping[object, object]) -> Pod:
    phase, address = status.get("phase"), status.get("podIP")
    if "deletionTimestamp" in metadata:
        return Pod("", "is being deleted")
    if phase != "Running":
        return Pod("", f"is {phase}" if phase in {"Pending", "Succeeded", "Failed"} else "does not run")
    if not isinstance(address, str) or not address:
        return Pod("", "has no address yet")
    try:
        parsed = ip_address(address)
    except ValueError:
        return Pod("", "has an address that is none")
    if isinstance(parsed, IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    # A user who may write a pod's status must not be able to lead clients to the gateway's own loopback.
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local or parsed.is_multicast:
        return Pod("", f"has the address {parsed}, which no pod can have")
    return Pod(str(parsed), "")
