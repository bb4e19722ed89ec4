"""People who jump: stock clients of SSH reach clusters and hosts by name through the SSH server, and no more
than that. On both data planes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.jumping import Jumping, jumping
from tests.support import parts

pytestmark = [pytest.mark.sshd]


@pytest.fixture(scope="module", params=["native", "asyncssh"])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jumping]:
    """One daemon for all tests, on each data plane."""
    parts.need("sshd")
    with jumping(tmp_path_factory.mktemp("jumping"), plane=request.param) as one:
        yield one


def test_a_host_behind_a_gateway_by_proxyjump(bed: Jumping) -> None:
    assert bed.desk.said("ssh -J bastion node-a 'echo $SSH_CONNECTION'").split()[3] == str(bed.sshd.port)


def test_a_forward_that_was_refused_can_be_cancelled(bed: Jumping) -> None:
    """OpenSSH asks to cancel it although nothing is there. The connection stays, as with sshd."""
    said = bed.desk.said(
        "ssh -M -S master -N -f -R 1234:localhost:1 bastion;"
        "ssh -S master -O cancel -R 1234:localhost:1 bastion;"
        "head -c 1000 /dev/zero | ssh -S master -W prod-eu:6443 bastion; head -c 1000 /dev/zero | sha256sum;"
        "ssh -S master -O exit bastion"
    )
    first, second = said.split()[:2]
    assert first == second


def test_a_cluster_without_a_port_by_its_name(bed: Jumping) -> None:
    said = bed.desk.said(
        "head -c 3000000 /dev/zero | ssh -W prod-eu:6443 bastion; head -c 3000000 /dev/zero | sha256sum"
    )
    first, second = said.split()[:2]
    assert first == second
