"""`kubemux demo`: an SSH server and two stand-in clusters in one process, and the real daemon in front of
them.
"""
