"""Every objective by its name."""

from cpds.objectives.distillation import DISTILLATION
from cpds.objectives.transport import TRANSPORT

OBJECTIVES = {**DISTILLATION, **TRANSPORT}
