"""Verdicts on the claims, the final summary, the report.

needs   the headline files and figures of every room; config/claims.yaml
makes   claims.json summary.json report.html
steps   claims summary report
"""

import mneme.report
from mneme.rooms import HEADLINES

TEMPLATES = sorted(map(str, (Path(mneme.report.__file__).parent / "templates").glob("*")))
FIGURES = [
    *(phase for phase in HEADLINES if phase not in ("env", "model", "zeros")),
    "mdn_training",
]
"""Pictures of the report, each with its caption in workflow/report/."""

STEPS = {
    "assets": [
        rules.assets_fetch.log[0],
        rules.assets_corpora.log[0],
        *([rules.assets_convert.log[0]] if EMBEDDED or TTT_PATHS.borrowed else []),
        *([rules.assets_minilm.log[0]] if "minilm" in LATTICE_PATHS.teachers else []),
    ],
    "prepare": [rules.routing_prepare.log[0]],
    "env": [rules.env_check.log[0]],
    "model": [rules.model_load.log[0]],
    "adapters": [
        *expand(rules.routing_adapter_fit.log[0], run=sorted(ADAPTER_RUNS)),
        rules.routing_adapters.log[0],
    ],
    "mixer": [
        rules.routing_states.log[0],
        *expand(rules.routing_mixer_fit.log[0], mixer=sorted(ROUTING.mixers)),
        rules.routing_model.log[0],
        rules.routing_mixer.log[0],
    ],
    "hysteresis": [
        *expand(rules.routing_trace.log[0], phase="hysteresis"),
        rules.routing_original.log[0],
        rules.hysteresis.log[0],
    ],
    "fatigue": [
        *expand(rules.routing_trace.log[0], phase="fatigue"),
        rules.fatigue.log[0],
    ],
    "zeros": [rules.zeros.log[0]],
    "mdn": [
        *expand(rules.zeta_prepare.log[0], system=ZETA_PATHS.systems),
        *expand(rules.zeta_fit.log[0], run=sorted(ZETA_PATHS.transformer_runs)),
        *expand(rules.zeta_primes_fit.log[0], run=sorted(ZETA_PATHS.phase_runs)),
        *expand(rules.zeta_measure.log[0], run=sorted(ZETA_PATHS.transformer_runs)),
        *expand(rules.zeta_primes_measure.log[0], run=sorted(ZETA_PATHS.phase_runs)),
        *expand(rules.zeta_references.log[0], system=ZETA_PATHS.systems),
        rules.zeta_floor.log[0],
        rules.mdn.log[0],
    ],
    "slot_ablation": [rules.slot_ablation.log[0]],
    "diagnostics": [rules.diagnostics.log[0]],
    "kernel": [rules.kernel.log[0]],
    "statistics": [rules.statistics.log[0]],
    "ttt_model": [
        *expand(rules.ttt_prepare.log[0], corpus=TTT_PATHS.corpora),
        *expand(rules.ttt_fit.log[0], run=TTT_PATHS.fitted),
        rules.ttt_model.log[0],
    ],
    "ttt_adapter": [
        *expand(rules.ttt_adapter_fit.log[0], run=sorted(TTT_PATHS.adapters)),
        rules.ttt_adapter.log[0],
    ],
    "ttt_grid": [rules.ttt_grid.log[0]],
    "ttt_context": [
        *expand(rules.ttt_measure.log[0], run=TTT_PATHS.measured),
        rules.ttt_context.log[0],
    ],
    "lattice": [
        rules.lattice_prepare.log[0],
        *expand(rules.lattice_embed.log[0], backbone=LATTICE_PATHS.teachers),
        *[
            expand(rules.lattice_fit.log[0], backbone=teacher, run=arm)[0]
            for teacher in LATTICE_PATHS.teachers
            for arm in LATTICE_PATHS.runs[teacher]
        ],
        *expand(rules.lattice_measure.log[0], backbone=LATTICE_PATHS.teachers),
        rules.lattice_original.log[0],
        rules.lattice_planted.log[0],
        rules.lattice.log[0],
    ],
    "claims": [result("logs/claims.log")],
}
"""Phase -> logs of all its steps; beside each lies the record of its time and memory. In an order
that a reordered YAML file leaves as it is."""


rule claims:
    input:
        [result(f"{phase}.json") for phase in HEADLINES],
    output:
        report(result("claims.json"), caption="../workflow/report/claims.rst", category="claims"),
    log:
        result("logs/claims.log"),
    localrule: True
    conda:
        ENV
    params:
        **lineage_params("claims", {"claims": SETTINGS.claims, "order": list(SETTINGS.claims)}),
    script:
        "../workflow/scripts/claims.py"


rule summary:
    input:
        [*(result(f"{phase}.json") for phase in HEADLINES), rules.claims.output[0]],
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
                    phase: lineage(rule)
                    for phase, rule in {**HEADLINES, "claims": "claims"}.items()
                },
                "steps": STEPS,
            },
        ),
    script:
        "../workflow/scripts/summary.py"


rule report:
    input:
        headlines=rules.summary.input,
        summary=rules.summary.output[0],
        figures=[result(f"{name}.svg") for name in FIGURES],
        captions=[str(Path(workflow.basedir) / f"workflow/report/{name}.rst") for name in FIGURES],
        templates=TEMPLATES,
    output:
        result("report.html"),
    log:
        result("logs/report.log"),
    localrule: True
    conda:
        ENV
    params:
        **params_of("report", {}),
    script:
        "../workflow/scripts/report.py"
