"""The byte path of a link, ours from authentication on; the handshake, rekeying and everything rare stay asyncssh's.

A byte to the cluster passes, in this order:

    relay.Relay.get_buffer              uvloop asks where a client's bytes are to go
    sending.Sending.get_buffer          one buffer for all clients: up to eight packets, no more than the peer's credit
    sending.Sending.buffer_updated      cut into packets
    outgoing.Outgoing.put_data          sealed (wire.packets) from there to where they are written from
    outgoing.Outgoing.flush             one write to the link for all that a turn of the loop has said

A byte back:

    gathering.Gathering                 the kernel wakes us for every packet, or for a good read of a long download
    incoming.Incoming.buffer_updated    a read of the link; packets are opened (wire.packets) where they stand
    plane.NativePlane._message          by kind and channel; full packets of one channel in a row are kept together
    channel.NativeChannel.data/pass_on  memoryviews of them, or a copy if the channel's window is a small one
    relay.Relay.channel_data            one write to the client's socket
    channel.NativeChannel._taken        it has taken them: credit for the cluster, once there is enough (wire.window)

When a side is slow:

    the client    its transport pauses Relay.pause_writing, that NativeChannel.pause_reading: no credit, so sshd stops sending
    the cluster   its credit ends: Sending._tell, Relay.channel_full, and the client's socket is not read until `adjusted`
    the link      Flow decides who waits (`hold`) and who goes on (`go_on`) when the kernel does not take everything
    memory        windows grow out of relay.budget, and shrink when it is short

`handover` is the border to asyncssh, `buffers` whose the memory is, and `plane` puts it all together.
"""
