"""The byte path of a link, ours from authentication on; the handshake, rekeying and everything rare stay
asyncssh's.

A client is connected once: `listeners.listener` accepts its socket, whose bytes wait in the kernel,
`cluster.Cluster.accept` has `ssh.gateway` open a NativeChannel (which is a Sending, too) on one of its links,
and `relay.relay.Relay` becomes the protocol of the socket and the user of the channel.

A byte to the cluster passes, in this order:

    Relay.get_buffer                    uvloop asks where a client's bytes are to go
    Sending.get_buffer                  one buffer for all clients: eight packets, or one while the link is
    congested, no more
                                        than the peer's credit, and a little if nothing may be sent now
    Relay.buffer_updated                counted
    Sending.buffer_updated              cut into packets
    Outgoing.put_data                   sealed (wire.packets, wire.chacha) out of that buffer into the link's
    Outgoing._end_turn, flush           one write to the link for all that a turn of the loop has said

A byte back:

    Incoming.get_buffer                 a buffer for a read of the link; `gathering` says how much is worth
    one
    Incoming.buffer_updated             packets are opened (wire.packets, wire.chacha) where they stand
    NativePlane._message                by kind and channel
    NativeChannel.keep, pass_on         packets of 16,000 bytes or more of one channel are kept together
    until another's comes,
                                        or the read ends
    NativeChannel.data                  the others go on at once
    Relay.channel_data                  one write to the client's socket, of memoryviews, or of copies if its
    window is small
    NativeChannel._taken                it has taken them: credit for the cluster, once there is enough
    (wire.window)

When a side is slow:

    the client    its transport calls Relay.pause_writing, and that NativeChannel.pause_reading: there is no
    credit, so sshd stops
                  sending, and what it may still send is put aside (`_undelivered`), a window at most.
                  Relay.resume_writing,
                  `resume_reading`: it has taken everything, is given that, and the credit goes out
    the cluster   sshd's credit for the channel ends: Sending._tell calls Relay.channel_full, and the
    client's socket is not read
                  until there is more (`adjusted`); what was read before goes first (`_pending`)
    the link      Incoming.pause_writing, NativePlane._congestion, Flow.congested: the kernel does not take
    everything, and Flow
                  decides who waits (`hold`) and who goes on (`go_on`), the rest when it has taken everything
                  (`drained`). So it
                  does while keys are exchanged, and for a bulk transfer that has others beside it (`usable`)
    too much      in a turn of the loop Incoming opens so many messages of one link and no more; the rest
    waits where it stands,
                  and the link is not read until `turn_ends`. The Valve knows who has another reason: a
                  change of keys, and a
                  gateway that does not read what it is answered (`_sent`). `ssh.metered` does the same for
                  what is asyncssh's
    memory        windows grow out of relay.budget, and shrink when it is short, or they stand idle
    (NativeChannel._review);
                  without any, new clients wait (proxy.relay.waiting)

NativePlane._turn_ends closes each turn of the loop: for Flow, for Gathering, for TCP_QUICKACK, and for
asyncssh, which counts what went out under one key. `handover` is the border to asyncssh, `buffers` lends the
memory, and `native_plane` puts it together.
"""
