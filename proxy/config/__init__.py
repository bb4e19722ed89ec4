"""Configuration: the model and its facts, the reader, the check of files, and the difference at a reload."""
