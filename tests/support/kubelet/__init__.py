"""A stand-in for a node: its kubelet, the web server of one pod, and the server of a Service.

`python -m tests.support.kubelet` is the program; `tests.support.nodes` runs it where only an sshd reaches it.
"""
