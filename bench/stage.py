"""What most questions share: the targets, two sshds, and the columns, which run at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench import servers
from bench.columns import Gateway, Ports, Route, distinct_ports, routes
from bench.scale import Scale
from tests.support.sshd import Sshd


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers of one question. `folder` is its own empty folder. Each test starts an iperf3 server at
    `targets.bulk`.
    """

    folder: Path
    scale: Scale
    targets: Ports
    stock: Sshd
    nodelay: Sshd

    @contextmanager
    def routes(self) -> Iterator[list[Route]]:
        """Run every column, without a delay to its sshd."""
        with routes(
            self.folder / "routes", self.targets, Gateway.of(self.stock), Gateway.of(self.nodelay)
        ) as ways:
            yield ways

    def interleaved(self, ways: list[Route]) -> Iterator[Route]:
        """The columns in turn, once for each repetition, so that a slow minute of the machine affects all of
        them.
        """
        for _ in range(self.scale.repetitions):
            yield from ways


@contextmanager
def stages(folder: Path, scale: Scale) -> Iterator[Iterator[Stage]]:
    """Yields stages without end, one for each question. All have the same servers."""
    with (
        servers.ssh_server(folder / "sshd") as stock,
        servers.ssh_server(folder / "sshd-nodelay", nodelay=True) as nodelay,
        servers.nginx(folder / "nginx", answers=scale.answers) as http,
        servers.echo() as echo,
    ):
        targets = Ports(distinct_ports(1)[0], http, echo)
        yield (Stage(folder / f"question-{n}", scale, targets, stock, nodelay) for n in count())
