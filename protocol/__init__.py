"""The wire format without I/O: frames, messages, codec and codes."""
