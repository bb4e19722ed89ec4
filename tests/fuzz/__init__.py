"""Fuzz targets: whatever bytes a gateway sends, a parser returns a value, asks for more, or ends the link.

`make fuzz` looks for bytes that do something else.
"""
