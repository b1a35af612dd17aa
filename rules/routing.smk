"""Room `routing`: TemporalLoRA, adapters, Time Mixer, hysteresis, fatigue.

needs   corpora, a backbone
makes   model.json adapters.json mixer.json hysteresis.json fatigue.json, figures beside them
steps   routing_prepare -> model_load
                        -> routing_adapter_fit (a run) -> routing_adapters, routing_original
                        -> routing_states -> routing_mixer_fit (a mixer) -> routing_mixer
                        -> routing_trace (fatigue's: order.smk) -> hysteresis, fatigue
"""

ROUTING = SETTINGS.routing
ADAPTER_RUNS = list(ROUTING.adapters.runs)
BLOCKS = rule_blocks(ROUTING, SETTINGS.chosen, name=BACKBONE, resources=SETTINGS.resources)
PATHS = RoutingPaths(results=SETTINGS.results, backbone=BACKBONE, config=ROUTING)


rule routing_prepare:
    input:
        corpora=[resource(f"corpora/{domain.corpus}.jsonl") for domain in ROUTING.domains],
        model=model_files(SETTINGS.chosen),
    output:
        PATHS.step("prepare", "tokens.npz"),
    log:
        result("logs/routing_prepare.log"),
    conda:
        ENV
    params:
        **params_of("routing_prepare", BLOCKS["routing_prepare"]),
    script:
        "../workflow/scripts/routing_prepare.py"


rule model_load:
    input:
        tokens=rules.routing_prepare.output[0],
        model=model_files(SETTINGS.chosen),
    output:
        result("model.json"),
    log:
        result("logs/model_load.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **headline_params("model_load", BLOCKS["model_load"]),
    script:
        "../workflow/scripts/model_load.py"


rule routing_adapter_fit:
    input:
        tokens=rules.routing_prepare.output[0],
        model=model_files(SETTINGS.chosen),
        begun=lambda wildcards: PATHS.begun(wildcards.run),
    output:
        losses=PATHS.adapter_seeds("{run}", "losses.json"),
        histories=PATHS.adapter_seeds("{run}", "history.json"),
        weights=PATHS.adapter_weights("{run}"),
    log:
        result("logs/routing_adapter_fit/{run}.log"),
    priority: 5  # routing_model waits for the last of a chain of these
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("routing_adapter_fit", BLOCKS["routing_adapter_fit"]),
    script:
        "../workflow/scripts/routing_adapter_fit.py"


rule routing_states:
    input:
        tokens=rules.routing_prepare.output[0],
        model=model_files(SETTINGS.chosen),
    output:
        PATHS.step("states", "calibration.safetensors"),
    log:
        result("logs/routing_states.log"),
    priority: 10  # the longest way to the end begins here
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("routing_states", BLOCKS["routing_states"]),
    script:
        "../workflow/scripts/routing_states.py"


rule routing_mixer_fit:
    input:
        states=rules.routing_states.output[0],
        ours=lambda wildcards: PATHS.mixer_start(wildcards.mixer),
    output:
        weights=PATHS.mixer_seeds("mixer_fit", "{mixer}", "mixer.safetensors"),
        records=PATHS.mixer_seeds("mixer_fit", "{mixer}", "mixer.json"),
    log:
        result("logs/routing_mixer_fit/{mixer}.log"),
    priority: 10
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("routing_mixer_fit", BLOCKS["routing_mixer_fit"]),
    script:
        "../workflow/scripts/routing_mixer_fit.py"


rule routing_model:
    input:
        tokens=rules.routing_prepare.output[0],
        model=model_files(SETTINGS.chosen),
        adapters=PATHS.first_adapters(ROUTING.adapters.headline),
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer="ours"),
    output:
        models=PATHS.mixer_seeds("model", "config.json"),
        losses=PATHS.mixer_seeds("model", "losses.json"),
    log:
        result("logs/routing_model.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("routing_model", BLOCKS["routing_model"]),
    script:
        "../workflow/scripts/routing_model.py"


rule routing_trace:
    input:
        tokens=rules.routing_prepare.output[0],
        model=model_files(SETTINGS.chosen),
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer=ROUTING.mixers_read()),
    output:
        PATHS.step("trace", "{phase}.npz"),
    log:
        result("logs/routing_trace/{phase}.log"),
    wildcard_constraints:
        phase="hysteresis",
    priority: 10
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("routing_trace", BLOCKS["routing_trace"]),
    script:
        "../workflow/scripts/routing_trace.py"


rule routing_original:
    input:
        adapters=PATHS.first_adapters(ROUTING.original.adapter_run),
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer=ROUTING.original.mixer),
        model=model_files(SETTINGS.chosen),
    output:
        PATHS.step("original", "sequences.json"),
    log:
        result("logs/routing_original.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("routing_original", BLOCKS["routing_original"]),
    script:
        "../workflow/scripts/routing_original.py"


rule routing_adapters:
    input:
        tokens=rules.routing_prepare.output[0],
        losses=expand(rules.routing_adapter_fit.output.losses, run=ADAPTER_RUNS),
        histories=expand(rules.routing_adapter_fit.output.histories, run=ADAPTER_RUNS),
    output:
        result("adapters.json"),
        **pictures("adapters", "routing"),
    log:
        result("logs/routing_adapters.log"),
    conda:
        ENV
    params:
        **headline_params("routing_adapters", BLOCKS["routing_adapters"]),
    script:
        "../workflow/scripts/routing_adapters.py"


rule routing_mixer:
    input:
        records=expand(rules.routing_mixer_fit.output.records, mixer=list(ROUTING.mixers)),
        tokens=rules.routing_prepare.output[0],
        losses=rules.routing_model.output.losses,
        known=PATHS.adapter_seeds(ROUTING.adapters.headline, "losses.json")[0],
    output:
        result("mixer.json"),
        **pictures("mixer", "routing"),
    log:
        result("logs/routing_mixer.log"),
    conda:
        ENV
    params:
        **headline_params("routing_mixer", BLOCKS["routing_mixer"]),
    script:
        "../workflow/scripts/routing_mixer.py"


rule hysteresis:
    input:
        trace=PATHS.step("trace", "hysteresis.npz"),
        original=rules.routing_original.output[0],
    output:
        result("hysteresis.json"),
        **pictures("hysteresis", "routing"),
    log:
        result("logs/hysteresis.log"),
    conda:
        ENV
    params:
        **headline_params("hysteresis", BLOCKS["hysteresis"]),
    script:
        "../workflow/scripts/hysteresis.py"


rule fatigue:
    input:
        trace=PATHS.step("trace", "fatigue.npz"),
        original=rules.routing_original.output[0],
    output:
        result("fatigue.json"),
        **pictures("fatigue", "routing"),
    log:
        result("logs/fatigue.log"),
    conda:
        ENV
    params:
        **headline_params("fatigue", BLOCKS["fatigue"]),
    script:
        "../workflow/scripts/fatigue.py"
