"""The keys of routes to pods. kubemux gets the pods' addresses from an API server."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from proxy.config.keys import Section, key
from proxy.config.values import Name, Whole
from proxy.config.written import Written
from proxy.runtime.text import shown

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_KEY: Final = r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_VALUE: Final = r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
_SET: Final = rf"{_KEY} +(in|notin) *+\( *+{_VALUE}( *+, *+{_VALUE})*+ *+\)"
_TERM: Final = rf"{_SET}|{_KEY} *+(==?|!=) *+{_VALUE}|!?{_KEY}"
# Atomic groups and possessive quantifiers ((?>...), *+) prevent backtracking, so long invalid text is refused
# fast.
_SELECTOR: Final = re.compile(rf" *+(?>{_TERM}) *+(, *+(?>{_TERM}) *+)*+", re.ASCII)
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/"""


def _selector(value: str) -> str:
    if len(value) > 1024 or not _SELECTOR.fullmatch(value):
        raise ValueError(f"expected a label selector, as kubectl get pods -l takes it, got {shown(value)}")
    return value


def _namespace(value: str) -> str:
    if not re.fullmatch(_LABEL, value, re.ASCII):
        raise ValueError(f"expected a namespace (a-z, 0-9 and -, at most 63), got {shown(value)}")
    return value


Selector = Annotated[str, Written(_selector, r"^[ -~]{1,1024}$")]
"""A label selector."""

Namespace = Annotated[str, Written(_namespace, rf"^{_LABEL}$")]
"""The name of a namespace."""


class DiscoverConfig(Section):
    """Pods that clients ask for as NAME.NAMESPACE. The role that this needs is in docs/notebooks.md."""

    cluster: Name = key("The cluster whose pods are watched, with the credentials of its probe.", "prod-eu")
    resource: Literal["pods"] = key("The resource that is watched.", default="pods")
    selector: Selector = key("The labels that the pods must have.", "app=notebook")
    namespace: Namespace | None = key(
        "The namespace of the pods.",
        "notebooks",
        default=None,
        unset="all (the role must be a ClusterRole)",
    )
    port: Whole = key(
        "The port of the pod. Clients ask for this port, or for port 22.",
        2209,
        least=1,
        most=65535,
    )
