"""The chat server process: listeners, sessions, routing, subjects and the command line."""
