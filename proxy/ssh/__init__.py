"""Everything about SSH; the only package that imports asyncssh. The byte path is in `native`."""
