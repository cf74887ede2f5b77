"""What puts a model to work: exported graphs, and a server."""
