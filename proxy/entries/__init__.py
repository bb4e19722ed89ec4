"""Where clients come in: listeners, the store that keeps their sockets over a restart, and arrivals."""
