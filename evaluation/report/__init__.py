"""An evaluation as people read it: Markdown for the terminal, one self-contained HTML page for everything else."""
