"""Is the live model still valid: what it was asked and answered (inference log), and how far that is from its reference (drift).

The Evidently door. Imports ``firstlight`` words, pandas, pyarrow, scipy and pydantic; Evidently itself is imported on the first comparison.
"""
