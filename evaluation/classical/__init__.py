"""Methods without training: thresholds, clustering, filters."""
