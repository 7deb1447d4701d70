"""Many machines: the gateway on Ray Serve, training and evaluation on Ray Data.

Needs the extra `ray`. Nothing here is imported by the rest of wye.
"""
