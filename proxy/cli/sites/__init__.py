"""What `kubemux site add` does: the entry of a site in the configuration, and what its own machine needs."""
