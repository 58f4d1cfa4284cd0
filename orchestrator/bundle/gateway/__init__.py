"""The server of a bundle: starts the runtime on loopback and answers in front of it like a NIM.

The package is self-contained: it imports the standard library, aiohttp and PyYAML, which a runtime
needs too. A bundle carries it verbatim as `gateway/`, an image has
it in `/opt/nim/gateway`, and `start_server.sh` runs `python3 -m gateway ACTION`.
"""
