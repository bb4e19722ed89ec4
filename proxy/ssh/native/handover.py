"""Takes keys and packets over from an asyncssh connection that has just authenticated.

From then on asyncssh sees no ciphertext. It sends packets through `_send` unencrypted (so it adds no
MSG_IGNORE), and we seal them. We open packets for asyncssh before it gets them. asyncssh still runs key
exchanges. In each direction, we take the new keys from it as soon as NEWKEYS has passed.

Like `proxy.ssh.internals`, this module uses private parts of asyncssh, as they are in release 2.24. Each is
in `_PARTS`, or `begin` checks it before it changes anything.
"""
# ruff: noqa: SLF001 - asyncssh's private parts are what this module is for; asyncio documents what a transport does

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, cast

import asyncssh
from asyncssh.encryption import ChachaEncryption, GCMEncryption

from proxy.ssh import internals
from proxy.ssh.data_plane import Unsupported
from proxy.ssh.internals import Connection
from proxy.ssh.metered import limits_of
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.native.wire.packets import HEADER

_PARTS: Final = (
    *(
        "_transport",
        "_send",
        "_recv_data",
        "_recv_handler",
        "_recv_pkthdr",
        "_recv_packet",
        "_finish_recv_packet",
        "_inpbuf",
    ),
    *(
        "_packet",
        "_recv_macsize",
        "_recv_seq",
        "_send_seq",
        "_send_encryption",
        "_recv_encryption",
        "_next_recv_encryption",
    ),
    *(
        "_compressor",
        "_decompressor",
        "_enc_algs",
        "_kex",
        "_kex_complete",
        "_kexinit_sent",
        "_send_kexinit",
        "send_newkeys",
    ),
    *(
        "_rekey_bytes",
        "_rekey_bytes_sent",
        "_rekey_seconds",
        "_rekey_time",
        "_send_disconnect",
        "_force_close",
    ),
    *("_deferred_packets", "_channels", "_auth_complete"),
)

_CARRIED: Final = (b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com", b"chacha20-poly1305@openssh.com")
"""The only ciphers that we offer in later key exchanges. If the peer accepts none of them any more, the key
exchange fails, and the link ends.
"""


class Transport(Protocol):
    """What we use of a transport: that of asyncio, of uvloop, or asyncssh's channel through a jump host."""

    def write(self, data: bytes | memoryview) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Successor(Protocol):
    """What carries the packets of a connection after asyncssh: the data plane."""

    def send_packet(self, payload: bytes) -> None:
        """Send a packet of asyncssh, which is not sealed."""

    def send_sealed(self, packet: bytes) -> None:
        """Send a packet that asyncssh has sealed with new keys; `sending_keys` follows with these keys."""

    def sending_sequence(self) -> int:
        """The sequence number of the next packet to be sent."""

    def sending_keys(self, keys: Keys) -> None:
        """NEWKEYS is sent: seal with `keys` from now on."""

    def receiving_keys(self, keys: Keys) -> None:
        """The peer's NEWKEYS has arrived: open with `keys` from now on."""


class TakenOver(NamedTuple):
    """The transport, keys and unread bytes of a connection that was taken over."""

    transport: Transport
    sending: Keys
    receiving: Keys
    received: bytes
    """Ciphertext that has arrived and is not opened yet."""


class _Opened:
    """Replaces asyncssh's decryption: packets are open already when asyncssh gets them."""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        del seq
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes:
        del seq, mac
        return first[header_len:] + rest


class Handover:
    """The takeover of one connection."""

    def __init__(self, conn: Connection, successor: Successor) -> None:
        self._conn = cast("Any", conn)
        self._successor = successor

    def begin(self) -> TakenOver:
        """Take the connection over. Raises Unsupported, and then nothing has changed."""
        conn = self._conn
        if missing := [name for name in _PARTS if not hasattr(conn, name)]:
            raise Unsupported(f"asyncssh {asyncssh.__version__} has no {', '.join(missing)}")
        metered = limits_of(conn)
        is_between = (metered is not None and metered.is_held) or conn._recv_handler in (
            conn._recv_pkthdr,
            conn._recv_packet,
        )
        # asyncssh handles the last packet of a client's login in a task, and counts it when the task has
        # ended. That may still have to happen.
        is_login = conn.is_server() and conn._auth_complete and not is_between
        sending = _keys(conn._send_encryption, conn._send_seq)
        receiving = _keys(conn._recv_encryption, (conn._recv_seq + is_login) & 0xFFFFFFFF)
        if conn._compressor or conn._decompressor:
            raise Unsupported("the connection is compressed")
        if (
            conn._kex
            or conn._next_recv_encryption
            or conn._kexinit_sent
            or conn._deferred_packets
            or not conn._kex_complete
        ):
            raise Unsupported("keys are being exchanged")
        if isinstance(conn._transport, asyncssh.SSHTCPChannel) and not hasattr(conn._transport, "_session"):
            raise Unsupported(f"asyncssh {asyncssh.__version__} has no SSHTCPChannel._session")
        if conn._channels:
            raise Unsupported("asyncssh has channels on it")
        if conn._transport is None:
            raise Unsupported("the connection is gone")
        if not (is_between or is_login):
            raise Unsupported("asyncssh is busy with a packet")
        if metered is not None:
            metered.stop()
        received = conn._packet + conn._inpbuf
        conn._packet = conn._inpbuf = b""
        conn._recv_handler = conn._recv_pkthdr
        conn._recv_encryption, conn._recv_macsize, conn._send_encryption = _Opened(), 0, None
        conn._enc_algs = [name for name in conn._enc_algs if name in _CARRIED]
        # Instance attributes hide the methods: asyncssh looks them up at each call.
        conn._send, conn.send_newkeys, conn._finish_recv_packet = (
            self._send,
            self._send_newkeys,
            self._finish_recv_packet,
        )
        return TakenOver(conn._transport, sending, receiving, received)

    def attach(self, protocol: asyncio.BufferedProtocol) -> None:
        """Let `protocol` receive; through a jump host, asyncssh calls its `data_received(data, type)`."""
        transport = self._conn._transport
        if isinstance(transport, asyncssh.SSHTCPChannel):
            cast("Any", transport)._session = protocol
        else:
            transport.set_protocol(protocol)

    def to_asyncssh(self, packet: memoryview, sequence: int) -> bool:
        """Let asyncssh process an opened packet, which has no tag. Returns whether the connection still
        exists.

        asyncssh ends the connection itself if the packet is wrong. It does not get the answer to a keepalive:
        an idle link receives nothing else, and a keepalive then takes a tenth fewer instructions.
        """
        if packet[HEADER] in messages.RESPONSES and internals.take_answer(self._conn):
            return self._conn._transport is not None
        self._conn._recv_seq = sequence
        self._conn._inpbuf += packet
        self._conn._recv_data()
        return self._conn._transport is not None

    def sent(self, nbytes: int) -> None:
        """Count `nbytes` that went out. Begin a key exchange if a limit of asyncssh, in bytes or seconds, is
        reached.

        asyncssh itself checks these limits only before it sends a packet, for example a keepalive. So an idle
        link gets new keys, too.
        """
        conn = self._conn
        conn._rekey_bytes_sent += nbytes
        is_due = conn._rekey_bytes_sent >= conn._rekey_bytes or (
            conn._rekey_seconds and monotonic() >= conn._rekey_time
        )
        if is_due and conn._kex_complete and conn._transport is not None:
            conn._send_kexinit()
            conn._kexinit_sent = True

    def fail(self, error: ProtocolError) -> None:
        """End the connection: the peer broke the protocol."""
        self._conn._send_disconnect(asyncssh.DISC_PROTOCOL_ERROR, str(error), "en")
        self._conn._force_close(asyncssh.ProtocolError(str(error)))

    def lost(self, exc: Exception | None) -> None:
        """The transport is closed: tell asyncssh."""
        self._conn.connection_lost(exc)

    # ---------------------------------------------------------------------------------- called by asyncssh

    def _send(self, packet: bytes) -> None:
        if self._conn._transport is None:
            return
        if self._conn._send_encryption is None:
            self._successor.send_packet(packet[HEADER : len(packet) - packet[4]])
        else:
            self._successor.send_sealed(packet)

    def _send_newkeys(self, k: bytes, h: bytes) -> None:
        conn = self._conn
        # asyncssh has counted only its own packets, and needs the right number for what follows NEWKEYS.
        conn._send_seq = self._successor.sending_sequence()
        # asyncssh's limits count from here, not from KEXINIT. Otherwise the next exchange could begin before
        # this one has ended.
        conn._rekey_bytes_sent, conn._rekey_time = 0, monotonic() + (conn._rekey_seconds or 0)
        type(conn).send_newkeys(conn, k, h)
        keys, conn._send_encryption = _keys(conn._send_encryption, conn._send_seq), None
        self._successor.sending_keys(keys)

    def _finish_recv_packet(self, kind: int, *args: object, **kwargs: object) -> None:
        conn, encryption = self._conn, None
        if kind == messages.NEWKEYS:
            encryption, conn._recv_encryption, conn._recv_macsize = conn._recv_encryption, _Opened(), 0
        type(conn)._finish_recv_packet(conn, kind, *args, **kwargs)
        if encryption is not None:
            self._successor.receiving_keys(_keys(encryption, conn._recv_seq))


def _keys(encryption: object, sequence: int) -> Keys:
    """The keys that asyncssh would have used from packet `sequence` on. Raises Unsupported."""
    cipher = getattr(encryption, "_cipher", None)
    key = getattr(cipher, "_key", b"")
    if isinstance(encryption, GCMEncryption):
        nonce = getattr(cipher, "_iv", b"")
        if len(key) in (16, 32) and len(nonce) == 12:
            return Keys(key, nonce, sequence)
    elif isinstance(encryption, ChachaEncryption):
        header_key = getattr(cipher, "_adkey", b"")
        if len(key) == len(header_key) == 32:
            return Keys(key + header_key, sequence=sequence)
    raise Unsupported("the cipher is neither AES-GCM nor chacha20-poly1305")
