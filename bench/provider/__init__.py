"""A scripted AI service on a real socket: OpenAI chat streaming, with faults on request."""
