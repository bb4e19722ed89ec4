"""How fast is a bulk transfer in each direction, and how much CPU does the forwarder need for it?"""

from __future__ import annotations

from bench.haproxy import haproxy
from bench.load import bulk
from bench.result import HAPROXY, SSH, Answer, Row, Target
from bench.stage import Stage

SPEED = {("to", 1): (Target(SSH, 1.25),), ("from", 1): (Target(SSH, 1.05),)}
COST = {
    ("to", 1): (Target(SSH, 0.72), Target(HAPROXY, 1.0)),
    ("from", 1): (Target(SSH, 0.90), Target(HAPROXY, 1.0)),
}


def measure(stage: Stage) -> Answer:
    """Run iperf3 in each direction, with one stream and with several."""
    rows = []
    with stage.routes() as tunnels, haproxy(stage.folder / "haproxy", stage.targets) as plain:
        ways = [*tunnels, plain]
        for streams in stage.scale.streams:
            for way in ("to", "from"):
                name = f"{way} the cluster, {streams} stream{'s' if streams > 1 else ''}"
                speed = Row(name, "MB/s", targets=SPEED.get((way, streams), ()))
                cost = Row(name, "CPU s per GB", more_is_better=False, targets=COST.get((way, streams), ()))
                for route in stage.interleaved(ways):
                    got = bulk(
                        route,
                        stage.targets.bulk,
                        seconds=stage.scale.seconds,
                        streams=streams,
                        from_cluster=way == "from",
                    )
                    speed.add(route.column, got.speed)
                    cost.add(route.column, got.cpu)
                rows += [speed, cost]
    notes = (
        "iperf3. CPU: user and system time of the forwarding process on the client's side, sshd's not "
        "counted. "
        "kubemux has 2 links; streams that begin at once share one, as with the others. "
        "HAProxy does not encrypt, and speaks to no sshd."
    )
    return Answer("bulk", "Bulk transfer", notes, tuple(rows))
