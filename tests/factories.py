"""Small real objects for tests: manifests with made-up but consistent numbers."""
