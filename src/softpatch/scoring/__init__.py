"""Patch scores become answers: anomaly map, image score, decision threshold, metrics."""
