"""Peers: a module for each, run in an environment of the peer's own, and the versions that go into it.

Each module's docstring says what is driven how. They import nothing but `benchmarks.protocol` and the peer.
"""
