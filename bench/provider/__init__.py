"""A scripted AI service on a real socket, in the wire formats of four vendors, with faults on request."""
