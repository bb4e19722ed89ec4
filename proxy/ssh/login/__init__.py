"""From a gateway's configuration to an authenticated SSH connection: settings, keys, trust, and the dial."""
