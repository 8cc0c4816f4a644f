"""From a bundle to answers, over HTTP or offline. Never imports torch."""
