"""`kubemux connect`: relays standard input and output, or hands ssh a socket, through a proxy entry.

ssh starts it for each connection (ProxyCommand), so it must start fast. This package imports only the
standard library's socket and our `Endpoint`: importing click takes 40 ms of CPU, the reader of the
configuration 200 ms. So `proxy.__main__` calls `command.attempt` before it imports `proxy.cli`.
`proxy.cli.connect` is the same command for everything else: help, usage errors, and a command line that names
no entry.
"""
