"""The server of a bundle: starts trtllm-serve on loopback and answers in front of it like a NIM.

The package is self-contained: it imports the standard library, aiohttp and PyYAML, which trtllm-serve
needs too. A bundle carries it verbatim as `gateway/`, an image has
it in `/opt/nim/gateway`, and `start_server.sh` runs `python3 -m gateway ACTION`.
"""
