"""The final summary.

needs   the headline files of every room that exists
makes   summary.json
steps   summary
"""

HEADLINES = {
    "env": "env_check",
    "model": "model_load",
    "adapters": "routing_adapters",
    "mixer": "routing_mixer",
    "hysteresis": "hysteresis",
    "fatigue": "fatigue",
}
"""Headline file -> the rule (and script) that makes it."""


rule summary:
    input:
        headlines=[result(f"{phase}.json") for phase in HEADLINES],
    output:
        report(result("summary.json"), caption="../workflow/report/summary.rst", category="summary"),
    log:
        result("logs/summary.log"),
    localrule: True
    conda:
        ENV
    params:
        **params_of(
            "summary",
            {
                "backbone": SETTINGS.chosen,
                "config_hash": fingerprint(SETTINGS),
                "expected": {
                    phase: code_of(script_path(rule)) for phase, rule in HEADLINES.items()
                },
            },
        ),
    script:
        "../workflow/scripts/summary.py"
