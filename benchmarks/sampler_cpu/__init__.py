"""Speed of DySample on the CPU: see `__main__.py`."""
