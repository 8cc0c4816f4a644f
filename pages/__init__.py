"""The common look of all HTML pages: self-contained files without scripts. This room imports no other room."""
