"""Files become RGB tensors and samples: images, dataset layouts, contamination protocols, the demo set."""
