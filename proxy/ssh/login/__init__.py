"""From a gateway's configuration to an authenticated SSH connection.

dial.py           the chain of servers, from the first jump host to the gateway
jumps.py          which jump hosts that are
prepared.py       reads everything that the dial of one server needs
options.py        the arguments of asyncssh's options
algorithms.py     the algorithms among them
user_keys.py      our keys and certificates
agent.py          the keys of an ssh-agent
nobody.py         a uid without a name and a home directory
tcp.py            the TCP connection to the first server
proxy_command.py  a ProxyCommand instead of it
handshake.py      the handshake and the login with one server
client.py         the callbacks of asyncssh meanwhile
trust.py          the host keys that we accept
verify.py         checks the host key that a server shows
agreement.py      for which purpose a server and we have no algorithm in common
learning.py       learns the further host keys of a server
"""
