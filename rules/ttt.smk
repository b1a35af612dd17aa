"""Room `ttt`: fast weights trained on what is read, meta-training, adapters, memory grid.

needs   corpora of assets.smk, the embedded model's tokenizer (run `original`); the hub, for recipes
        whose corpus has the source daily_dialog
makes   ttt_model.json ttt_adapter.json ttt_grid.json ttt_context.json, figures, ttt_grid.csv
steps   (ttt_daily_dialog ->) ttt_prepare (a corpus) -> ttt_fit (a run)
        -> ttt_adapter_fit (an adapter), ttt_measure (a run)
        -> ttt_model, ttt_adapter, ttt_grid, ttt_context
"""

from mneme.ttt.blocks import ttt_blocks
from mneme.ttt.paths import TTTPaths

WEIGHTS = "adapter_model.safetensors"
"""Where PEFT, and the source's form, keep an adapter's numbers."""

TTT_PATHS = TTTPaths(
    results=SETTINGS.results,
    recipes=SETTINGS.ttt.recipes,
    runs=SETTINGS.ttt.runs,
    adapters=SETTINGS.ttt.adapter.runs,
    context_corpora=sorted({one.corpus for one in SETTINGS.ttt.context.sets.values()}),
    borrowed=[n for n, one in SETTINGS.ttt.corpora.items() if one.tokenizer == "smollm2"],
    seeds=SETTINGS.ttt.seeds,
)
TTT_BLOCKS = ttt_blocks(SETTINGS.ttt, TTT_PATHS)


rule ttt_daily_dialog:
    output:
        corpus=resource("corpora/daily_dialog.jsonl"),
    log:
        resource("logs/ttt_daily_dialog.log"),
    localrule: True  # needs the network, which compute nodes of a cluster often lack
    conda:
        ENV
    params:
        **params_of("ttt_daily_dialog", SETTINGS.ttt.daily_dialog),
    script:
        "../workflow/scripts/ttt_daily_dialog.py"


rule ttt_prepare:
    input:
        corpora=lambda wildcards: [
            resource(f"corpora/{name}.jsonl")
            for name in sorted(SETTINGS.ttt.corpora[wildcards.corpus].sources)
        ],
        tokenizer=lambda wildcards: (
            resource("models/smollm2-135m/model.safetensors")
            if wildcards.corpus in TTT_PATHS.borrowed
            else []
        ),
    output:
        tokens=TTT_PATHS.step("prepare", "{corpus}", "tokens.npz"),
        tokenizer=TTT_PATHS.step("prepare", "{corpus}", "tokenizer.json"),
        facts=TTT_PATHS.step("prepare", "{corpus}", "facts.json"),
    log:
        result("logs/ttt_prepare/{corpus}.log"),
    wildcard_constraints:
        corpus="|".join(TTT_PATHS.corpora),
    conda:
        ENV
    params:
        **params_of("ttt_prepare", TTT_BLOCKS["ttt_prepare"]),
    script:
        "../workflow/scripts/ttt_prepare.py"


rule ttt_fit:
    input:
        unpack(lambda wildcards: TTT_PATHS.prepared(TTT_PATHS.corpus(wildcards.run))),
    output:
        weights=TTT_PATHS.seeded("fit", "{run}", "model.safetensors"),
        histories=TTT_PATHS.seeded("fit", "{run}", "history.json"),
    log:
        result("logs/ttt_fit/{run}.log"),
    wildcard_constraints:
        run="|".join(TTT_PATHS.fitted),
    priority: 5  # shorter jobs fill what is left at the end
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("ttt_fit", TTT_BLOCKS["ttt_fit"]),
    script:
        "../workflow/scripts/ttt_fit.py"


rule ttt_measure:
    input:
        unpack(lambda wildcards: TTT_PATHS.prepared(TTT_PATHS.corpus(wildcards.run))),
        weights=lambda wildcards: TTT_PATHS.weights(wildcards.run),
    output:
        losses=TTT_PATHS.seeded("measure", "{run}", "losses.npz"),
        facts=TTT_PATHS.seeded("measure", "{run}", "facts.json"),
    log:
        result("logs/ttt_measure/{run}.log"),
    wildcard_constraints:
        run="|".join(TTT_PATHS.measured),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("ttt_measure", TTT_BLOCKS["ttt_measure"]),
    script:
        "../workflow/scripts/ttt_measure.py"


rule ttt_model:
    input:
        histories=TTT_PATHS.of("fit", TTT_PATHS.fitted, "history.json"),
    output:
        result("ttt_model.json"),
        **pictures("ttt_model", "ttt"),
    log:
        result("logs/ttt_model.log"),
    conda:
        ENV
    params:
        **lineage_params("ttt_model", TTT_BLOCKS["ttt_model"]),
    script:
        "../workflow/scripts/ttt_model.py"


rule ttt_adapter_fit:
    input:
        unpack(lambda wildcards: TTT_PATHS.prepared(TTT_PATHS.base_corpus(wildcards.run))),
        weights=lambda wildcards: TTT_PATHS.seeded(
            "fit", TTT_PATHS.adapters[wildcards.run].base, "model.safetensors"
        ),
    output:
        adapters=TTT_PATHS.seeded("adapter_fit", "{run}", f"adapter/{WEIGHTS}"),
        losses=TTT_PATHS.seeded("adapter_fit", "{run}", "losses.npz"),
        told=TTT_PATHS.seeded("adapter_fit", "{run}", "told.json"),
    log:
        result("logs/ttt_adapter_fit/{run}.log"),
    wildcard_constraints:
        run="|".join(TTT_PATHS.adapters),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("ttt_adapter_fit", TTT_BLOCKS["ttt_adapter_fit"]),
    script:
        "../workflow/scripts/ttt_adapter_fit.py"


rule ttt_adapter:
    input:
        losses=TTT_PATHS.of("adapter_fit", TTT_PATHS.adapters, "losses.npz"),
        told=TTT_PATHS.of("adapter_fit", TTT_PATHS.adapters, "told.json"),
    output:
        result("ttt_adapter.json"),
        **pictures("ttt_adapter", "ttt"),
    log:
        result("logs/ttt_adapter.log"),
    conda:
        ENV
    params:
        **lineage_params("ttt_adapter", TTT_BLOCKS["ttt_adapter"]),
    script:
        "../workflow/scripts/ttt_adapter.py"


rule ttt_grid:
    input:
        tokenizers=[TTT_PATHS.prepared(corpus)["tokenizer"] for corpus in TTT_PATHS.grid_corpora],
        weights=TTT_PATHS.of("fit", TTT_PATHS.grid_runs, "model.safetensors"),
        adapters=TTT_PATHS.of("adapter_fit", TTT_PATHS.grid_adapters, f"adapter/{WEIGHTS}"),
    output:
        result("ttt_grid.json"),
        **pictures("ttt_grid", "ttt"),
        csv=result("ttt_grid.csv"),
    log:
        result("logs/ttt_grid.log"),
    priority: 5  # shorter jobs fill what is left at the end
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **lineage_params("ttt_grid", TTT_BLOCKS["ttt_grid"]),
    script:
        "../workflow/scripts/ttt_grid.py"


rule ttt_context:
    input:
        losses=TTT_PATHS.of("measure", TTT_PATHS.measured, "losses.npz"),
        chosen=TTT_PATHS.of("measure", TTT_PATHS.measured, "facts.json"),
        histories=TTT_PATHS.of("fit", TTT_PATHS.compared, "history.json"),
        facts=[TTT_PATHS.step("prepare", corpus, "facts.json") for corpus in TTT_PATHS.read_corpora],
    output:
        result("ttt_context.json"),
        **pictures("ttt_context", "ttt"),
    log:
        result("logs/ttt_context.log"),
    conda:
        ENV
    params:
        **lineage_params("ttt_context", TTT_BLOCKS["ttt_context"]),
    script:
        "../workflow/scripts/ttt_context.py"
