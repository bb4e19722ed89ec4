"""The admin endpoints (HTTP on loopback and on a unix socket), and the client that the commands use."""
