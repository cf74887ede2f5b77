"""Images become patch embeddings: the backbone, its weights, and the embedding of each grid position."""
