"""The SSH wire without any I/O: packets sealed and opened in place, channel messages, receive windows."""
