"""HTTP on the shared port: accounts, pictures, health, figures, and a page for the curious."""
