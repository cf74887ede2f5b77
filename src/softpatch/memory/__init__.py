"""Patch embeddings become a trusted, weighted memory bank: discriminators, selection, coreset, neighbours."""
