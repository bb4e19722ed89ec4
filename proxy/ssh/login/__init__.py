"""From a gateway's configuration to an authenticated SSH connection: settings, keys, who the server is, the
way there.
"""
