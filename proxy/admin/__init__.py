"""The admin side: HTTP on loopback and on a unix socket, and the pure snapshots it shows."""
