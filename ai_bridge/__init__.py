"""AI turns: admission, providers, streaming, cancel and deadlines."""
