"""The parts of `kubemux site`: adding a site to the configuration, what to run at the site, and its state."""
