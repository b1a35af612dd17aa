"""Which job of a rule starts before the others of its kind.

needs   what the rule it is made of needs
makes   the trace of `fatigue`: the longest job of the room, which else might start last
steps   routing_trace_fatigue -> fatigue
"""


use rule routing_trace as routing_trace_fatigue with:
    wildcard_constraints:
        phase="fatigue",
    priority: 11
