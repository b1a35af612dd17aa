"""Room `routing`: TemporalLoRA, adapters, Time Mixer, hysteresis, fatigue.

needs   corpora, a backbone, env.json (a run that asks for a GPU stops there)
makes   model.json adapters.json mixer.json hysteresis.json fatigue.json, figures beside them
steps   routing_prepare -> model_load
                        -> routing_adapter_fit (a run) -> routing_adapters, routing_original
                        -> routing_states -> routing_mixer_fit (a mixer) -> routing_mixer
                        -> routing_trace (hysteresis | fatigue) -> hysteresis, fatigue
"""

ROUTING = SETTINGS.routing
DOMAINS = [domain.name for domain in ROUTING.domains]
ADAPTER_RUNS = list(ROUTING.adapters.runs)
MIXERS = list(ROUTING.mixers)
CHOSEN = {"backbone": SETTINGS.chosen, "resources": SETTINGS.resources}
GATE_LAYER = SETTINGS.chosen.gate_layer


def routing(step, *path):
    """Return a path below `<results>/routing/<step>/<backbone>/`."""
    return result("/".join(["routing", step, BACKBONE, *path]))


def mixer_block(wildcards):
    """Return the settings that calibrating one mixer depends on."""
    return {
        "name": wildcards.mixer,
        "mixer": ROUTING.mixers[wildcards.mixer],
        "calibration": ROUTING.calibration,
        "domains": DOMAINS,
        "seeds": ROUTING.seeds,
    }


def mixer_start(wildcards):
    """Return the folders of mixer `ours` when this mixer continues from it."""
    if ROUTING.mixers[wildcards.mixer].init == "fresh":
        return []
    return [routing("mixer_fit", "ours", f"seed{seed}", "mixer.json") for seed in ROUTING.seeds]


def adapter_block(wildcards):
    """Return the settings that training one adapter run depends on."""
    adapters = {
        key: value
        for key, value in vars(ROUTING.adapters).items()
        if key not in ("runs", "headline")
    }
    return {
        **CHOSEN,
        "adapters": adapters,
        "name": wildcards.run,
        "run": ROUTING.adapters.runs[wildcards.run],
        "domains": DOMAINS,
    }


rule routing_prepare:
    input:
        corpora=[
            resource(f"corpora/{domain.corpus}.jsonl") for domain in ROUTING.domains
        ],
        model=backbone_files(),
        env=ancient(result("env.json")),
    output:
        routing("prepare", "tokens.npz"),
    params:
        **params_of(
            "routing_prepare",
            {
                **CHOSEN,
                "domains": ROUTING.domains,
                "pair": ROUTING.pair,
                "prepare": ROUTING.prepare,
                "sizes": sizes_of(ROUTING),
            },
        ),
    log:
        result("logs/routing_prepare.log"),
    conda:
        ENV
    script:
        "../workflow/scripts/routing_prepare.py"


rule model_load:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
    output:
        result("model.json"),
    params:
        **params_of(
            "model_load",
            {
                **CHOSEN,
                "name": BACKBONE,
                "domains": DOMAINS,
                "batch": ROUTING.protocol.batch,
                "resamples": ROUTING.protocol.resamples,
            },
        ),
    log:
        result("logs/model_load.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/model_load.py"


rule routing_adapter_fit:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
    output:
        losses=[
            routing("adapter_fit", "{run}", f"seed{seed}", "losses.json")
            for seed in ROUTING.adapters.seeds
        ],
        histories=[
            routing("adapter_fit", "{run}", f"seed{seed}", "history.json")
            for seed in ROUTING.adapters.seeds
        ],
        weights=[
            routing(
                "adapter_fit", "{run}", f"seed{seed}", "adapters", name, "adapter_model.safetensors"
            )
            for seed in ROUTING.adapters.seeds
            for name in DOMAINS
        ],
    params:
        **params_of("routing_adapter_fit", adapter_block),
    log:
        result("logs/routing_adapter_fit/{run}.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/routing_adapter_fit.py"


rule routing_states:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
    output:
        routing("states", "calibration.safetensors"),
    params:
        **params_of(
            "routing_states", {**CHOSEN, "domains": DOMAINS, "batch": ROUTING.protocol.batch}
        ),
    log:
        result("logs/routing_states.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/routing_states.py"


rule routing_mixer_fit:
    input:
        states=rules.routing_states.output[0],
        ours=mixer_start,
    output:
        weights=[
            routing("mixer_fit", "{mixer}", f"seed{seed}", "mixer.safetensors")
            for seed in ROUTING.seeds
        ],
        records=[
            routing("mixer_fit", "{mixer}", f"seed{seed}", "mixer.json") for seed in ROUTING.seeds
        ],
    params:
        **params_of("routing_mixer_fit", mixer_block),
    log:
        result("logs/routing_mixer_fit/{mixer}.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/routing_mixer_fit.py"


rule routing_model:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
        adapters=[
            routing(
                "adapter_fit",
                ROUTING.adapters.headline,
                f"seed{ROUTING.adapters.seeds[0]}",
                "adapters",
                name,
                "adapter_model.safetensors",
            )
            for name in DOMAINS
        ],
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer="ours"),
    output:
        models=[routing("model", f"seed{seed}", "config.json") for seed in ROUTING.seeds],
        losses=[routing("model", f"seed{seed}", "losses.json") for seed in ROUTING.seeds],
    params:
        **params_of(
            "routing_model",
            {
                **CHOSEN,
                "domains": DOMAINS,
                "seeds": ROUTING.seeds,
                "batch": ROUTING.adapters.runs[ROUTING.adapters.headline].batch,
            },
        ),
    log:
        result("logs/routing_model.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/routing_model.py"


rule routing_trace:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer=MIXERS),
    output:
        routing("trace", "{phase}.npz"),
    params:
        **params_of(
            "routing_trace",
            {
                **CHOSEN,
                "domains": DOMAINS,
                "pair": ROUTING.pair,
                "seed": ROUTING.prepare.seed,
                "seeds": ROUTING.seeds,
                "protocol": ROUTING.protocol,
                "runs": ROUTING.runs,
            },
        ),
    wildcard_constraints:
        phase="hysteresis|fatigue",
    log:
        result("logs/routing_trace/{phase}.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/routing_trace.py"


rule routing_original:
    input:
        adapters=expand(rules.routing_adapter_fit.output.weights, run=ROUTING.original.adapter_run),
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer="token"),
        model=backbone_files(),
    output:
        routing("original", "sequences.json"),
    params:
        **params_of(
            "routing_original",
            {
                **CHOSEN,
                "domains": DOMAINS,
                "pair": ROUTING.pair,
                "seeds": ROUTING.seeds,
                "original": ROUTING.original,
            },
        ),
    log:
        result("logs/routing_original.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    script:
        "../workflow/scripts/routing_original.py"


rule routing_adapters:
    input:
        losses=expand(rules.routing_adapter_fit.output.losses, run=ADAPTER_RUNS),
        histories=expand(rules.routing_adapter_fit.output.histories, run=ADAPTER_RUNS),
    output:
        result("adapters.json"),
        figures=multiext(result("adapters"), ".svg", ".png"),
    params:
        **params_of(
            "routing_adapters",
            {
                "domains": DOMAINS,
                "adapters": ROUTING.adapters,
                "resamples": ROUTING.protocol.resamples,
            },
        ),
    log:
        result("logs/routing_adapters.log"),
    conda:
        ENV
    script:
        "../workflow/scripts/routing_adapters.py"


rule routing_mixer:
    input:
        records=expand(rules.routing_mixer_fit.output.records, mixer=MIXERS),
        losses=rules.routing_model.output.losses,
    output:
        result("mixer.json"),
        figures=multiext(result("mixer"), ".svg", ".png"),
    params:
        **params_of(
            "routing_mixer",
            {
                "domains": DOMAINS,
                "mixers": ROUTING.mixers,
                "calibration": ROUTING.calibration,
                "seeds": ROUTING.seeds,
                "resamples": ROUTING.protocol.resamples,
            },
        ),
    log:
        result("logs/routing_mixer.log"),
    conda:
        ENV
    script:
        "../workflow/scripts/routing_mixer.py"


MEASURE = {
    "domains": DOMAINS,
    "pair": ROUTING.pair,
    "seeds": ROUTING.seeds,
    "protocol": ROUTING.protocol,
    "runs": ROUTING.runs,
    "original": ROUTING.original,
}


rule hysteresis:
    input:
        trace=routing("trace", "hysteresis.npz"),
        original=rules.routing_original.output[0],
    output:
        result("hysteresis.json"),
        figures=multiext(result("hysteresis"), ".svg", ".png"),
    params:
        **params_of("hysteresis", MEASURE),
    log:
        result("logs/hysteresis.log"),
    conda:
        ENV
    script:
        "../workflow/scripts/hysteresis.py"


rule fatigue:
    input:
        trace=routing("trace", "fatigue.npz"),
        original=rules.routing_original.output[0],
    output:
        result("fatigue.json"),
        figures=multiext(result("fatigue"), ".svg", ".png"),
    params:
        **params_of("fatigue", MEASURE),
    log:
        result("logs/fatigue.log"),
    conda:
        ENV
    script:
        "../workflow/scripts/fatigue.py"
