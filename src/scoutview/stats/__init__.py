"""Arrays to numbers with intervals: ranking, decisions, calibration, comparison."""
