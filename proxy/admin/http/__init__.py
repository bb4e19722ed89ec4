"""uvicorn's HTTP/1.1 protocol on our own listening sockets, for an ASGI app.

uvicorn brings the protocol (h11) and its bridge to ASGI. What its server leaves open is here:

    requests     which requests are refused: what two readers may understand in two ways, and what is too long
    answers      what every answer has, and the answer to what is refused
    lingering    a transport whose `close` lets the client's last bytes arrive, so that it can read the answer
    connection   one client: deadlines for a request and for its answer, an answer sent as the client reads
    serving      all clients of one listener: how many at most, who makes room, and the stop

`uvicorn.Server` is not used. It takes over the process's signals, waits at a stop for streams that do not
end, and has neither a deadline for a request's head, nor for a client that does not read its answer.
"""

from __future__ import annotations

from typing import Final

SERVER: Final = "kubemux"
"""The field `Server` of every answer: what tells this daemon from another program at its address."""
