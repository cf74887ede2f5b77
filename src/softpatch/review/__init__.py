"""Answers become what a person looks at: tables, maps, overlays, evaluations, the demo."""
