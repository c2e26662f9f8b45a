"""Libraries of the web app, as their makers published them, and the script that fetches them."""
