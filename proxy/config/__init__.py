"""Configuration: the model, the loader, and the difference between two of them."""
