"""What any long-running asyncio program needs: tasks with owners, places for what blocks, logging, systemd,
names, text.

It imports nothing else of ours.
"""
