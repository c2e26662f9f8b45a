"""A scripted AI service on a real socket: four vendors' wire formats, faults on request."""
