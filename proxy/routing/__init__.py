"""Names that clients ask for: where each leads, who may, and why. Pure: it takes values and opens nothing."""
