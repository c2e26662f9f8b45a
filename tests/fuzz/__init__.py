"""Property tests with random and hostile input."""
