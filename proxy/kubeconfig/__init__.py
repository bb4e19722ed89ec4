"""Kubeconfigs: `export` writes contexts that lead clients to the listeners, `import` takes clusters, with
their addresses and CAs, from one.
"""
