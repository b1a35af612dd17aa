"""Network building blocks used by two or more rooms."""
