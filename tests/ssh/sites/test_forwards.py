"""The forwards that a site may register, and the messages for refused ones."""

from __future__ import annotations

import pytest

from proxy.errors import ForwardRefused
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.sites.forwards import Forwards


def forwards(most: int = 64) -> Forwards:
    return Forwards("factory-7", most=most, is_taken=lambda name: name in {"factory-7", "factory-8"})


def test_a_forward_with_the_sites_own_name_is_the_dynamic_one() -> None:
    ours = forwards()
    for host, port in (("kube", 6443), ("factory-7", 1080), ("10.0.0.1", 6443), ("fd00::1", 22)):
        assert ours.register(host, port, may_listen=True) == Endpoint(host, port)
    assert ours.dynamic == Endpoint("factory-7", 1080)
    assert ours.fixed(Endpoint("KUBE", 6443)) == Endpoint("kube", 6443)
    assert ours.fixed(Endpoint("factory-7", 1080)) is None
    assert len(ours) == 4


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("Kube", 80, "-R Kube:80 has capitals, and names are asked for in lower case: write kube:80"),
        ("kube", 0, "-R kube:0: kubemux chooses no port"),
        ("kube", 65536, "-R kube:65536: kubemux chooses no port"),
        ("", 80, "-R 80 has no name: write -R factory-7:80"),
        ("localhost", 80, "-R 80 has no name"),
        ("*", 80, "-R 80 has no name"),
        ("factory-8", 80, "-R factory-8:80 has the name of another site, and this is factory-7"),
        ("x\x1b[31m\n", 80, r"'x\x1b[31m\n' is neither a host name nor an address"),
        ("\ufffd", 80, "is neither a host name nor an address"),
        ("a b", 80, "'a b' is neither a host name nor an address"),
        ("x" * 5000, 80, "is neither a host name nor an address"),
        ("0.0.0.0", 80, "is the address of no host"),  # noqa: S104 - it is refused
        ("kube.", 80, "-R kube.:80: clients ask for it in another form: write kube:80"),
        ("::ffff:10.0.0.1", 80, "write 10.0.0.1:80"),
        ("0:0:0:0:0:0:0:1", 80, "write [::1]:80"),
    ],
)
def test_names_that_clients_cannot_ask_for_are_refused(host: str, port: int, sentence: str) -> None:
    ours = forwards()
    with pytest.raises(ForwardRefused) as caught:
        ours.register(host, port, may_listen=True)
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert len(ours) == 0


def test_the_options_of_the_key_and_the_limit_are_kept() -> None:
    ours = forwards(most=2)
    with pytest.raises(ForwardRefused, match="the options of the key do not allow it"):
        ours.register("kube", 6443, may_listen=False)
    ours.register("kube", 6443, may_listen=True)
    ours.register("factory-7", 1080, may_listen=True)
    ours.register("kube", 6443, may_listen=True)
    with pytest.raises(ForwardRefused, match=r"-R kube:22: sites\.factory-7.max_forwards is 2"):
        ours.register("kube", 22, may_listen=True)
    assert ours.cancel("kube", 6443)
    assert not ours.cancel("kube", 6443)
    with pytest.raises(ForwardRefused, match="-R factory-7:1080 is there already, and one is enough"):
        ours.register("factory-7", 1081, may_listen=True)
