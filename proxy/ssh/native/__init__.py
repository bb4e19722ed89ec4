"""The byte path of a link, ours from authentication on; the handshake, rekeying and everything rare stay asyncssh's.

A byte to the cluster: `sending.get_buffer` (up to eight packets at once), `outgoing.put_data` (sealed from there to where it
is written from), `outgoing.flush` (one write per turn of the loop). A byte back: `incoming.buffer_updated` (opened where it
stands), `plane._message`, `channel.pass_on` (memoryviews to the client's transport, one write for what came in a row). When a
side is slow: the gateway or the cluster, `flow` decides who waits and `sending` holds the client back; the client, `channel`
gives no credit (`proxy.wire.window`). `handover` is the border to asyncssh, `buffers` whose the memory is, and `plane` puts
it all together.
"""
