"""What the source published of its run, as it stands there: nothing of it is ours."""

from __future__ import annotations

LOSS = {0: 0.9739, 2: 0.3607, 4: 0.1860, 6: 0.0857, 8: 0.0649, 10: 0.0538}
"""Loss by epoch; 10 stands for the final one. Other epochs were not published."""
SIMILARITY = {0: 0.9998, 2: 0.9999, 4: 0.9999, 6: 0.9999, 8: 0.9999, 10: 1.0000}
"""Similarity of question and answer surfaces by epoch."""
BASELINE_SIMILARITY = 0.269
"""Cosine of a question's embedding with its answer's before anything."""
PARAMETERS = 45_918_613
"""Of the adapter, 4,096 numbers to 225 and back."""
COMPRESSION = 18.2
"""4,096 / 225 (ratio .055)."""
BATCH = 7
"""Training pairs of 8."""
CRITERIA = "2 of 3"
"""Criteria that the source counted as met."""
