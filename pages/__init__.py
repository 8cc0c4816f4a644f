"""How every HTML page of ours looks: one self-contained file, no script, no torch; it knows none of the stages."""
