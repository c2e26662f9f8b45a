"""The web app: plain files that the server hands out. No Python runs here."""
