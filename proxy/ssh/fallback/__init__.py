"""The data plane of asyncssh's own channels, for links whose bytes we do not carry ourselves."""
