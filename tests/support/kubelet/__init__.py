"""A stand-in for a node: its kubelet, the web server of one pod, and the server of a Service.

`python -m tests.support.kubelet` runs it. `tests.support.nodes` runs it in a network that only the node's
sshd can reach.
"""
