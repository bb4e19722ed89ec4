"""Fuzz targets: whatever bytes a gateway or a client sends, a parser returns a value, asks for more, or ends
the connection.

`make fuzz` looks for bytes that do something else.
"""
