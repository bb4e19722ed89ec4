"""One client socket paired with one channel, until both directions have ended."""
