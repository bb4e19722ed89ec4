"""Everything that speaks SSH; the only package that imports asyncssh."""
