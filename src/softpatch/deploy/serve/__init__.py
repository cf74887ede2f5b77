"""Models behind HTTP: `softpatch serve`. `settings.py` says what there is to choose, `app.py` puts it together."""
