"""Discovery of pods: kubemux learns from an API server the address of each pod that clients ask for as
NAME.NAMESPACE.
"""
