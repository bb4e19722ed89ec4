"""How clients come in: listeners, proxy entries, and the store that keeps listening sockets over
a restart.
"""
