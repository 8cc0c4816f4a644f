"""From labelled photos to a trained, calibrated guard.

The files other stages may import, all free of torch: `contract`, `preprocess`, `calibration`.
"""
