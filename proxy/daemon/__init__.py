"""The object graph of one daemon, and what changes it: start, reload, renewal, orders, signals, stop."""
