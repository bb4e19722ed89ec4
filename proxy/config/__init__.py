"""The configuration file: its keys, how it is read and checked, and what a reload has to change."""
