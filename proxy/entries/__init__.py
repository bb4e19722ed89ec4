"""The local sockets that stand for clusters."""
