"""The byte path of a link, ours from authentication on; the handshake, rekeying and everything rare stay asyncssh's.

A byte to the cluster: `channel.get_buffer` (received behind the room for a header), `outgoing.seal_data` (sealed where it
stands), `outgoing.flush` (one write per turn of the loop). A byte back: `incoming.buffer_updated` (opened where it stands),
`channel.data` (to the client's transport, as a memoryview). Who waits when a side is slow: `flow` towards the cluster,
`proxy.wire.window` towards the client. `handover` is the border to asyncssh; `plane` puts it all together.
"""
