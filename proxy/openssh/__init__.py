"""OpenSSH's programs and file formats, as its manual pages describe them. Nothing here makes a connection."""
