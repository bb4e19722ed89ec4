"""The byte path of a link. When the login has ended, kubemux itself encrypts and decrypts a link's packets.
asyncssh still does the handshake, key exchanges and rare messages.

The peer of a link is a gateway's sshd, or a client of our SSH server: a site, or a person who jumps. How a
client gets its channel: `entries.listener` accepts its socket, and what it sends waits in the kernel. The
cluster has the gateway open a NativeChannel on one of its links. Then `relay.socket_relay.SocketRelay`
becomes the protocol of the socket and the user of the channel. A client that has come by SSH has a
NativeChannel instead of a socket: OpenRequests makes it of the client's OPEN, and
`relay.channel_relay.ChannelRelay` becomes the user of both channels.

A byte to the cluster passes these, in this order:

SocketRelay.get_buffer
    uvloop asks for a buffer for the client's bytes.
Sending.get_buffer
    returns a part of one buffer that all clients use: room for eight packets, or for one while the link is
    congested; at most the peer's credit, and a little room while nothing may be sent.
SocketRelay.buffer_updated
    counts the bytes.
Sending.buffer_updated
    cuts them into packets.
Outgoing.put_data
    seals them from that buffer into the buffer of the link (wire.packets, wire.chacha).
Outgoing._end_turn
    writes to the link once, for all packets of this turn of the loop.

A byte to the client passes these:

Incoming.get_buffer
    a buffer for the next read from the link; `gathering` sets how large a read must be.
Incoming.buffer_updated
    opens packets in place (wire.packets, wire.chacha).
NativePlane._message
    finds the channel.
NativeChannel.keep
    collects packets of 16,000 bytes or more that follow each other on one channel.
NativeChannel.pass_on
    passes them on when another channel's packet comes, or when the read ends.
NativeChannel.data
    passes smaller packets on at once.
SocketRelay.channel_data
    writes to the client's socket once: memoryviews, or copies if the window is small.
NativeChannel._grant_if_due
    when the client's socket has taken enough, grants the cluster credit (wire.window).

From channel to channel, ChannelRelay copies a byte from the second path's `channel_data` into the first
path's buffer.

Backpressure, by what is slow:

the client
    Its transport calls SocketRelay.pause_writing, which calls NativeChannel.pause_reading. The cluster gets
    no credit, so sshd stops sending. What sshd may still send, at most a window, is kept in `_undelivered`.
    After SocketRelay.resume_writing the client gets it, and the cluster gets credit.
the cluster
    sshd's credit for the channel is used up. Sending._update_user calls SocketRelay.channel_full, and the
    client's socket is not read until sshd grants credit (`adjusted`). Bytes that were read before,
    `_pending`, are sent first.
the link
    The kernel does not take everything: Incoming.pause_writing, NativePlane._congestion, Flow.congested.
    Flow decides which channels wait (`hold`) and which send again (`resume`). All may send when the kernel
    has taken everything (`drained`). Channels also wait during a key exchange; a bulk transfer waits, too,
    while it shares its link with others (`usable`).
the loop
    Incoming opens a limited number of messages of one link in one turn of the loop. The others stay in the
    buffer, and the link is not read until `turn_ends`. The Valve combines this with the other reasons not
    to read: new keys are awaited, or the peer does not read our answers (NativePlane._sent). `ssh.metered`
    sets the same limits for what asyncssh handles.
memory
    Windows grow out of relay.budget. They shrink when memory is short, or when they are not used
    (NativeChannel._review). When all memory is acquired, new clients wait (relay.waiting).

NativePlane._turn_ends runs at the end of each turn: it updates Flow and Gathering, sets TCP_QUICKACK, and
tells asyncssh how many bytes went out, because asyncssh decides when new keys are due. `handover` takes the
connection over from asyncssh, `buffers` has the buffers, and `native_plane` connects all these parts.
"""
