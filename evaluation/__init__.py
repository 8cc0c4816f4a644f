"""From a run to the evidence of how good it is: `oodguard evaluate`, `oodguard diagnose`, and their report."""
