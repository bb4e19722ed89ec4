"""Any bytes from a gateway are data, too few, or an error that ends the link.

`make fuzz` looks for others.
"""
