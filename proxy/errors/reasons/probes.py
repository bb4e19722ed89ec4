"""The reasons about probes of an API server, as `proxy.errors.reasons` lists them."""

from __future__ import annotations

from typing import Final

from proxy.errors.words import Subject

_P = Subject.PROBE

UNAUTHORIZED: Final = (
    "unauthorized",
    (_P,),
    "alive: the API server answered with 401 or 403",
    "the API server is alive; to see its health too, give probe.token_file or probe.client_cert",
)
TLS_UNTRUSTED: Final = (
    "tls_untrusted",
    (_P,),
    "reached, but its certificate is not signed by a CA of `tls.ca_file`",
    "clients that trust another CA are served all the same: if kubectl works, tls.ca_file is the wrong "
    "one (it must hold certificate-authority-data of the kubeconfig: rotated?), else it is the wrong "
    "server",
)
TLS_NAME_MISMATCH: Final = (
    "tls_name_mismatch",
    (_P,),
    "reached, but its certificate is for other names than `tls.server_name`",
    "clients that ask for another name are served all the same: set tls.server_name to one that the "
    "certificate has (kubernetes is usual); kubemux probe CLUSTER lists them",
)
TLS_EXPIRED: Final = (
    "tls_expired",
    (_P,),
    "reached, but its certificate, or that of its CA, has expired",
    "renew it (kubeadm certs renew apiserver), or set this machine's clock right",
)
TLS_NOT_YET_VALID: Final = (
    "tls_not_yet_valid",
    (_P,),
    "reached, but its certificate is not valid yet",
    "compare this machine's clock with the API server's: timedatectl",
)
TLS_CLIENT_CERT: Final = (
    "tls_client_cert",
    (_P,),
    "the server does not accept the probe's client certificate, or wants one",
    "give probe.client_cert and probe.client_key, signed by a CA that the server trusts, not expired",
)
TLS_FAILED: Final = (
    "tls_failed",
    (_P,),
    "the server does not speak TLS, or only versions of it that kubemux does not accept",
    "does api_servers point to the HTTPS port (6443), and does the server speak TLS 1.2 or later?",
)
HTTP_FAILED: Final = (
    "http_failed",
    (_P,),
    "the answer is not HTTP, or longer than that of any API server",
    "what answers there is not an API server: check api_servers",
)
UNHEALTHY: Final = (
    "unhealthy",
    (_P,),
    "the API server answers that it is not healthy, or its answer is not that of an API server",
    "the API server says so itself: kubectl get --raw '/readyz?verbose', and check probe.path",
)
