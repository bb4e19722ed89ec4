"""The SSH protocol without I/O: sealing and opening packets in place, channel messages, receive windows."""
