"""The SSH server: it authenticates clients and limits their connections. It opens no channels: the site or
user that a key belongs to owns the connection after the login.

server.py     accepts sockets, and holds the connections
session.py    one connection: the callbacks of asyncssh
login.py      decides whose a key is, and whether that client may log in now (pure)
startups.py   limits the connections that have not logged in yet (pure)
penalties.py  locks out sources whose logins keep failing (pure)
refusals.py   counts and logs the clients that may not log in, and adds to the penalties
recheck.py    decides again about a client that has logged in, and may end its connection
gate.py       limits how many logins make a step in one turn of the loop
host_keys.py  our own host keys
keygen.py     makes host keys
user.py       the connection of a user, after the login
"""
