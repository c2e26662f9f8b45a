"""The real server process, met by the SDK and the command line as its users meet it."""
