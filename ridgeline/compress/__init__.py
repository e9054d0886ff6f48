"""Models made smaller: number formats, calibration, algorithms."""
