"""Reference clients: the Python SDK and the terminal chat."""
