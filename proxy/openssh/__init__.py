"""OpenSSH's file formats, read as OpenSSH reads them. Nothing here speaks SSH."""
