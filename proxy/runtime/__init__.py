"""What any asyncio program that runs for long needs: tasks, blocking calls, logging, systemd, names, text.

It imports no other package of kubemux.
"""
