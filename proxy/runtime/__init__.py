"""What any long-running asyncio program needs: tasks, blocking calls, logging, systemd, names, text.

It imports no other package of kubemux.
"""
