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
BLOCKS = rule_blocks(ROUTING, SETTINGS.chosen, name=BACKBONE, resources=SETTINGS.resources)
WEIGHTS = "adapter_model.safetensors"


def routing(step, *path):
    """Return a path below `<results>/routing/<step>/<backbone>/`."""
    return result("/".join(["routing", step, BACKBONE, *path]))


def adapter_seeds(run, *path):
    """Return a path of an adapter run for every adapter seed."""
    seeds = ROUTING.adapters.seeds
    return [routing("adapter_fit", run, f"seed{seed}", *path) for seed in seeds]


def mixer_seeds(step, *path):
    """Return a path of `<step>/<backbone>/` for every mixer seed; the last part is the file."""
    return [routing(step, *path[:-1], f"seed{seed}", path[-1]) for seed in ROUTING.seeds]


def mixer_start(wildcards):
    """Return the folders of mixer `ours` when this mixer continues from it."""
    if ROUTING.mixers[wildcards.mixer].init == "fresh":
        return []
    return mixer_seeds("mixer_fit", "ours", "mixer.json")


rule routing_prepare:
    input:
        corpora=[resource(f"corpora/{domain.corpus}.jsonl") for domain in ROUTING.domains],
        model=backbone_files(),
        env=ancient(result("env.json")),
    output:
        routing("prepare", "tokens.npz"),
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
        model=backbone_files(),
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
        **params_of("model_load", BLOCKS["model_load"]),
    script:
        "../workflow/scripts/model_load.py"


rule routing_adapter_fit:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
    output:
        losses=adapter_seeds("{run}", "losses.json"),
        histories=adapter_seeds("{run}", "history.json"),
        weights=[
            path for name in DOMAINS for path in adapter_seeds("{run}", "adapters", name, WEIGHTS)
        ],
    params:
        **params_of("routing_adapter_fit", BLOCKS["routing_adapter_fit"]),
    script:
        "../workflow/scripts/routing_adapter_fit.py"


rule routing_states:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
    output:
        routing("states", "calibration.safetensors"),
    log:
        result("logs/routing_states.log"),
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
        ours=mixer_start,
    output:
        weights=mixer_seeds("mixer_fit", "{mixer}", "mixer.safetensors"),
        records=mixer_seeds("mixer_fit", "{mixer}", "mixer.json"),
    params:
        **params_of("routing_mixer_fit", BLOCKS["routing_mixer_fit"]),
    script:
        "../workflow/scripts/routing_mixer_fit.py"


rule routing_model:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
        adapters=[
            adapter_seeds(ROUTING.adapters.headline, "adapters", name, WEIGHTS)[0]
            for name in DOMAINS
        ],
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer="ours"),
    output:
        models=mixer_seeds("model", "config.json"),
        losses=mixer_seeds("model", "losses.json"),
    params:
        **params_of("routing_model", BLOCKS["routing_model"]),
    script:
        "../workflow/scripts/routing_model.py"


rule routing_trace:
    input:
        tokens=rules.routing_prepare.output[0],
        model=backbone_files(),
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer=MIXERS),
    output:
        routing("trace", "{phase}.npz"),
    log:
        result("logs/routing_trace/{phase}.log"),
    wildcard_constraints:
        phase="hysteresis|fatigue",
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
        adapters=[
            adapter_seeds(ROUTING.original.adapter_run, "adapters", name, WEIGHTS)[0]
            for name in DOMAINS
        ],
        mixers=expand(rules.routing_mixer_fit.output.weights, mixer="token"),
        model=backbone_files(),
    output:
        routing("original", "sequences.json"),
    params:
        **params_of("routing_original", BLOCKS["routing_original"]),
    script:
        "../workflow/scripts/routing_original.py"


rule routing_adapters:
    input:
        losses=expand(rules.routing_adapter_fit.output.losses, run=ADAPTER_RUNS),
        histories=expand(rules.routing_adapter_fit.output.histories, run=ADAPTER_RUNS),
    output:
        result("adapters.json"),
        figures=multiext(result("adapters"), ".svg", ".png"),
    log:
        result("logs/routing_adapters.log"),
    conda:
        ENV
    params:
        **params_of("routing_adapters", BLOCKS["routing_adapters"]),
    script:
        "../workflow/scripts/routing_adapters.py"


rule routing_mixer:
    input:
        records=expand(rules.routing_mixer_fit.output.records, mixer=MIXERS),
        losses=rules.routing_model.output.losses,
    output:
        result("mixer.json"),
        figures=multiext(result("mixer"), ".svg", ".png"),
    log:
        result("logs/routing_mixer.log"),
    conda:
        ENV
    params:
        **params_of("routing_mixer", BLOCKS["routing_mixer"]),
    script:
        "../workflow/scripts/routing_mixer.py"


rule hysteresis:
    input:
        trace=routing("trace", "hysteresis.npz"),
        original=rules.routing_original.output[0],
    output:
        result("hysteresis.json"),
        figures=multiext(result("hysteresis"), ".svg", ".png"),
    log:
        result("logs/hysteresis.log"),
    conda:
        ENV
    params:
        **params_of("hysteresis", BLOCKS["hysteresis"]),
    script:
        "../workflow/scripts/hysteresis.py"


rule fatigue:
    input:
        trace=routing("trace", "fatigue.npz"),
        original=rules.routing_original.output[0],
    output:
        result("fatigue.json"),
        figures=multiext(result("fatigue"), ".svg", ".png"),
    log:
        result("logs/fatigue.log"),
    conda:
        ENV
    params:
        **params_of("fatigue", BLOCKS["fatigue"]),
    script:
        "../workflow/scripts/fatigue.py"
