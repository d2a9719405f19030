"""Tasks: from features to metrics, predictions and intervals."""
