"""Post-hoc baselines: scores of trained networks that need no training of their own, one method per file."""
