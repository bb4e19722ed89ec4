"""OpenSSH's programs and file formats, as its manual pages have them. No SSH connection is made here."""
