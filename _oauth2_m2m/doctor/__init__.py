"""What is running against what is safe: facts in, findings out.

The rules are plain functions of values, a file for each kind of facts; `examination` gathers the
facts. A finding says what was found, why it matters and how to mend it.
"""

from _oauth2_m2m.doctor.examination import Examination
from _oauth2_m2m.doctor.findings import Finding, Severity, worst

__all__ = ["Examination", "Finding", "Severity", "worst"]
