"""Post-hoc baselines: scores of a plainly trained classifier, one method a file."""
