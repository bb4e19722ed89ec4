"""What kubemux needs of asyncssh that asyncssh's public interface does not offer.

An asyncssh connection ignores its transport's `pause_writing`, queues packets without bound during a key
exchange, never changes a channel's receive window, and has no call that measures a round trip.

Only this package, `native.handover` (a link's bytes), `metered` (its limits) and `serving` (the clients
of our server) use asyncssh's private parts. They are written for asyncssh 2.24, which pyproject.toml pins;
`check` fails if another release lacks one of these parts. A connection is one that we have dialled, or one of
a client of our SSH server.

parts.py       the parts that are used, and the check that they are there
login.py       the login to a server, and the host keys that it shows
connection.py  a connection that is up
channel.py     a channel
"""

from __future__ import annotations

from proxy.ssh.internals.channel import grow_window as grow_window
from proxy.ssh.internals.channel import on_close as on_close
from proxy.ssh.internals.channel import unsent as unsent
from proxy.ssh.internals.connection import accept_any_answer as accept_any_answer
from proxy.ssh.internals.connection import is_exchanging_keys as is_exchanging_keys
from proxy.ssh.internals.connection import is_gone as is_gone
from proxy.ssh.internals.connection import limit_packets as limit_packets
from proxy.ssh.internals.connection import on_congestion as on_congestion
from proxy.ssh.internals.connection import pinger as pinger
from proxy.ssh.internals.connection import received as received
from proxy.ssh.internals.connection import session_id as session_id
from proxy.ssh.internals.connection import stop_keepalive as stop_keepalive
from proxy.ssh.internals.connection import take_answer as take_answer
from proxy.ssh.internals.login import connect as connect
from proxy.ssh.internals.login import forget_login as forget_login
from proxy.ssh.internals.login import offers as offers
from proxy.ssh.internals.login import on_greeting as on_greeting
from proxy.ssh.internals.login import on_host_key as on_host_key
from proxy.ssh.internals.login import on_host_keys as on_host_keys
from proxy.ssh.internals.login import on_login as on_login
from proxy.ssh.internals.login import prove_host_keys as prove_host_keys
from proxy.ssh.internals.parts import Connection as Connection
from proxy.ssh.internals.parts import check as check
