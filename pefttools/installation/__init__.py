"""What is installed on this machine, and whether pefttools can work with it. Nothing here needs torch to be there."""

from pefttools.installation.diagnosis import doctor
from pefttools.installation.finding import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "doctor"]
