"""uvicorn's HTTP/1.1 protocol on our own listening sockets, for an ASGI app.

uvicorn parses HTTP (by h11) and calls the app. These modules add what `uvicorn.Server` lacks:

    requests     which requests are refused: ambiguous ones, and those that are too long
    answers      what every answer has, and the answer to what is refused
    lingering    a transport whose `close` does not lose the answer while the client is still sending
    connection   one client: a deadline for a request, one for its answer, and backpressure
    serving      all clients of one listener: how many at most, which one is closed for a new one, the stop

`uvicorn.Server` is not used. It takes over the process's signals, waits at a stop for streams that do not
end, and has neither a deadline for a request's head, nor for a client that does not read its answer.
"""

from __future__ import annotations

from typing import Final

SERVER: Final = "kubemux"
"""The field `Server` of every answer: what tells this daemon from another program at its address."""
