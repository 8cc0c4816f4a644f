"""Image classifiers that know when not to answer."""
