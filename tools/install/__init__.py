"""What `tools/host.py` is made of: finding a ComfyUI, installing one, and the environment that the tests run in.

Runs under a bare Python: nothing but the standard library is imported here.
"""
