"""From labelled photos to a trained, calibrated run."""
