"""Everything that speaks SSH; the only package that imports asyncssh. The byte path is `native`."""
