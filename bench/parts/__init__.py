"""Benchmarks of single parts of the process, compared with stored figures: `make bench-parts`."""
