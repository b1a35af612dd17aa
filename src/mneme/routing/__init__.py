"""Does a router over domain adapters have temporal memory?

Method: TemporalLoRA. One LoRA adapter per domain on a frozen causal language model, mixed per
token by a Time Mixer. Inertia after a domain switch (hysteresis), difference of the second visit
to a domain (return gap) and growth with dwell (deep crystallization, "fatigue") are measured on
teacher-forced held-out text with known boundaries, beside controls in which such a memory cannot
exist or exists by construction.

Sources: documents 1 and 4 of the project's sources (TemporalLoRA suite; Mistral-7B results).
"""
