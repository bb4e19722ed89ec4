"""`kubemux demo`: an SSH server, two stand-in clusters, and the real daemon, all in one process."""
