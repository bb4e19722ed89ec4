"""A stand-in for a node: its kubelet, one pod's web server, and what stands behind a Service.

`python -m tests.support.kubelet` is the program; `tests.support.nodes` runs it where only an sshd reaches it.
"""
