"""Networks that methods train: heads over features, and small convolutional networks for images of 32 x 32.

`catalogue.py` lists those for images by name.
"""
