"""All errors of kubemux, as one tree.

Each class has a `reason` from the list in `proxy.errors.reasons`. `stage` says how far a connection got (see
`Stage`). `hint` tells the operator what to do: the reason's remedy, or a better one from where the error is
raised.

base.py      the root, and how far a connection got
links.py     links to gateways and sites, and logins
channels.py  a client's way to its target
names.py     a name that is asked for
problems.py  a file that cannot be used: a report with a line for each problem
local.py     this machine: a local address, the running daemon

An exception of another library is translated at one boundary: asyncssh's in `proxy/ssh`, ssl's and h11's in
`proxy/health`.
"""

from __future__ import annotations

from proxy.errors.base import ProxyError as ProxyError
from proxy.errors.base import Stage as Stage
from proxy.errors.channels import ChannelError as ChannelError
from proxy.errors.channels import ChannelProhibited as ChannelProhibited
from proxy.errors.channels import ChannelRefused as ChannelRefused
from proxy.errors.channels import ChannelTimeout as ChannelTimeout
from proxy.errors.channels import HostLimit as HostLimit
from proxy.errors.channels import LinkDown as LinkDown
from proxy.errors.channels import MemoryExhausted as MemoryExhausted
from proxy.errors.links import AuthFailed as AuthFailed
from proxy.errors.links import BadVersion as BadVersion
from proxy.errors.links import ConnectTimeout as ConnectTimeout
from proxy.errors.links import CredentialsUnusable as CredentialsUnusable
from proxy.errors.links import DialBroken as DialBroken
from proxy.errors.links import ForwardRefused as ForwardRefused
from proxy.errors.links import HandshakeFailed as HandshakeFailed
from proxy.errors.links import HostKeyChanged as HostKeyChanged
from proxy.errors.links import HostKeyRevoked as HostKeyRevoked
from proxy.errors.links import HostKeyUnknown as HostKeyUnknown
from proxy.errors.links import JumpFailed as JumpFailed
from proxy.errors.links import KeepaliveTimeout as KeepaliveTimeout
from proxy.errors.links import KeyExpired as KeyExpired
from proxy.errors.links import KeyRemoved as KeyRemoved
from proxy.errors.links import LinkClosed as LinkClosed
from proxy.errors.links import LinkError as LinkError
from proxy.errors.links import LinkLost as LinkLost
from proxy.errors.links import LinkReplaced as LinkReplaced
from proxy.errors.links import ProxyCommandFailed as ProxyCommandFailed
from proxy.errors.links import RetryClass as RetryClass
from proxy.errors.links import Unreachable as Unreachable
from proxy.errors.links import Unresolvable as Unresolvable
from proxy.errors.local import AdminError as AdminError
from proxy.errors.local import ListenError as ListenError
from proxy.errors.names import Ambiguous as Ambiguous
from proxy.errors.names import Denied as Denied
from proxy.errors.names import UnknownName as UnknownName
from proxy.errors.names import UnknownTarget as UnknownTarget
from proxy.errors.problems import ConfigError as ConfigError
from proxy.errors.problems import Problem as Problem
from proxy.errors.problems import UnknownNames as UnknownNames
