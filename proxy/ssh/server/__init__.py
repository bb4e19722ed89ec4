"""The SSH server: from an accepted connection to a login, with its limits. Others decide what it is good for.

server.py     takes accepted sockets, and keeps the logins that live
session.py    one connection: the callbacks of asyncssh
login.py      who a key is, and whether it may come in now (pure)
startups.py   how many connections there may be before their login (pure)
penalties.py  sources that keep failing (pure)
gate.py       how much of a turn of the loop all logins together take
host_keys.py  our own keys
"""
