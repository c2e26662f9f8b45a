"""Answers over HTTP in the shapes that programs know: what every door of the bridge shares."""
