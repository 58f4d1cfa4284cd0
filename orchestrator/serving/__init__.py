"""Says how each runtime is started, configured and measured, and what it refuses: one module for each.

`server.py` defines what such a module has, `runtimes.py` finds the module of an image. A bundle's gateway has its own
half in `bundle/gateway/`, because it is copied without this package.
"""
