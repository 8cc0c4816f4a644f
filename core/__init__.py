"""What every stage shares: records, scores, calibration, the verdict. NumPy, Pillow and pydantic; no torch."""
