"""What an API server says of pods: pages of a list, and lines of a watch, become a table of addresses.

For the protocol see https://kubernetes.io/docs/reference/using-api/api-concepts/. Nothing here does I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from proxy.runtime.text import shown

MAX_PODS: Final = 20_000
"""A hundred times what people reach by name. A pod takes about 300 bytes here."""


class Expired(Exception):
    """The API server has forgotten what was asked for (410 Gone): everything must be listed again."""


class Unusable(Exception):
    """The answer is not what an API server says of pods; `str()` says what is wrong with it."""


class Pod(NamedTuple):
    """What is known of one pod."""

    address: str
    """Empty if no client can be led there."""
    why: str
    """Why not: `is Pending`."""


Pods = dict[str, Pod]
"""Pods by `NAME.NAMESPACE`. No namespace has a dot, so a name with one cannot be taken for another's."""


class Page(NamedTuple):
    """One page of a list."""

    pods: Pods
    version: str
    more: str
    """What asks for the next page; empty at the last one."""


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
    """Apply one line of a watch to `pods`; returns the version to go on from.

    Raises Unusable, and Expired if that version is too old. Then `pods` is as before.
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
    """Raises Unusable if there are too many."""
    if len(pods) > MAX_PODS:
        raise Unusable(f"more than {MAX_PODS} pods have these labels: a narrower selector is needed")


def said(body: bytes) -> str:
    """What an answer other than 200 says: the message of an API server's Status, or else its text."""
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
    # Who may write a pod's status must not lead clients to services of the gateway's own machine.
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local or parsed.is_multicast:
        return Pod("", f"has the address {parsed}, which no pod can have")
    return Pod(str(parsed), "")
