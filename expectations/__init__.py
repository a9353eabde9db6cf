"""May these data be trusted, and does the model treat every kind of spectrum alike?

The Great Expectations door (suites in code, one validation, a typed report) and the bias check over slices.
Imports ``firstlight`` words, pandas, numpy, scipy and pydantic only; Great Expectations itself is imported on the first validation,
because that takes seconds.
"""

from expectations.bias_report import BiasReport, SliceResult
from expectations.leakage import Division, division
from expectations.policy import BiasPolicy, DataPolicy
from expectations.report import DataReport, ExpectationResult
from expectations.slices import assess_bias
from expectations.validation import validate_reference, validate_spectra

__all__ = [
    "BiasPolicy",
    "BiasReport",
    "DataPolicy",
    "DataReport",
    "Division",
    "ExpectationResult",
    "SliceResult",
    "assess_bias",
    "division",
    "validate_reference",
    "validate_spectra",
]
