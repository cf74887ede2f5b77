"""Detectors as graphs that other programs run, checked against the detector."""
