"""What stands on the backbone: the five papers' heads and losses, feature density, and every score's formula."""
