"""What `kubemux connect` does: a program's standard input and output, or ssh itself, through a proxy entry.

ssh starts it for each connection (ProxyCommand), so it must start fast: this package imports the standard
library's socket and our `Endpoint`, and nothing that takes longer. `proxy.cli` would: click alone takes 40 ms
of CPU, the configuration's reader 200. `proxy.__main__` therefore calls `command.attempt` before it imports
that, and `proxy.cli.connect` is the same command for all that is not plain: help, mistakes, no entry named.
"""
