"""The byte path of a link, which is ours from authentication on. The handshake, new keys and everything rare
stay asyncssh's.

A client is connected once. `entries.listener` accepts its socket, whose bytes wait in the kernel.
`Cluster.accept` has the gateway open a NativeChannel on one of its links. Then `relay.relay.Relay` becomes
the protocol of the socket and the user of the channel.

A byte to the cluster passes, in this order:

    Relay.get_buffer          uvloop asks where a client's bytes are to go
    Sending.get_buffer        one buffer for all clients. Room for eight packets, or for one while the link is
                              congested; no more than the peer's credit, and a little if nothing may be sent
    Relay.buffer_updated      counts
    Sending.buffer_updated    cuts into packets
    Outgoing.put_data         seals out of that buffer into the link's (wire.packets, wire.chacha)
    Outgoing._end_turn        writes once to the link, for all that a turn of the loop has to send

A byte to the client passes:

    Incoming.get_buffer       a buffer for a read of the link; `gathering` says how much is worth a read
    Incoming.buffer_updated   opens packets where they stand (wire.packets, wire.chacha)
    NativePlane._message      finds the channel
    NativeChannel.keep        keeps packets of 16,000 bytes or more that follow each other on one channel,
    NativeChannel.pass_on     until another channel's packet comes or the read ends
    NativeChannel.data        hands on the others at once
    Relay.channel_data        writes once to the client's socket: memoryviews, or copies for a small window
    NativeChannel._client_took
                              the client's socket has taken them: credit for the cluster, once there is enough
                              (wire.window)

When a side is slow:

    the client    Its transport calls Relay.pause_writing, and that NativeChannel.pause_reading. The cluster
                  gets no credit, so sshd stops sending. What it may still send is put aside (`_undelivered`),
                  a window at most. After Relay.resume_writing the client gets that, and the credit goes out.
    the cluster   sshd's credit for the channel is used up. Sending._update_user calls Relay.channel_full, and
                  the client's socket is not read until there is more credit (`adjusted`). What was read
                  before goes first (`_pending`).
    the link      The kernel does not take everything: Incoming.pause_writing, NativePlane._congestion,
                  Flow.congested. Flow decides who waits (`hold`) and who goes on (`go_on`); all go on when
                  the kernel has taken everything (`drained`). The same holds while keys are exchanged, and
                  for a bulk transfer that shares its link with others (`usable`).
    the loop      Incoming opens a limited number of messages of one link in a turn of the loop. The rest
                  waits where it stands, and the link is not read until `turn_ends`. The Valve knows of the
                  other reasons not to read: new keys are awaited, or the gateway does not read our answers
                  (NativePlane._sent). `ssh.metered` does the same for what asyncssh handles.
    memory        Windows grow out of relay.budget. They shrink when memory is short or when they are not used
                  (NativeChannel._review). Without any memory, new clients wait (relay.waiting).

NativePlane._turn_ends closes each turn of the loop: for Flow, for Gathering, for TCP_QUICKACK, and for
asyncssh, which counts what went out under one key. `handover` is the border to asyncssh, `buffers` lends the
memory, and `native_plane` puts it together.
"""
