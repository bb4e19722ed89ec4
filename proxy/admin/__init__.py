"""The admin endpoints, over HTTP on loopback and on a unix socket, and the client that asks them."""
