"""Networks that the methods train whole: heads over features, and small convolutional networks for 32 x 32 images."""
