"""From flagged images to decisions: the tool in which a person marks them, and the folders that the marks become."""
