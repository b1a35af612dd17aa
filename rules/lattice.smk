"""Room `lattice`: teacher embeddings, universal adapter, cellular lattice.

needs   corpora of assets.smk, the embedded model and MiniLM
makes   lattice.json, figure
steps   lattice_prepare -> lattice_embed (a teacher) -> lattice_fit (a teacher, an arm)
        -> lattice_measure (a teacher) -> lattice (beside lattice_original, lattice_planted)
"""

from mneme.lattice.paths import LatticePaths
from mneme.lattice.rule_blocks import lattice_blocks

LATTICE_PATHS = LatticePaths(
    results=SETTINGS.results, runs=SETTINGS.lattice.runs, seeds=SETTINGS.lattice.seeds
)
LATTICE_BLOCKS = lattice_blocks(SETTINGS.lattice, LATTICE_PATHS, SETTINGS.resources)


rule lattice_prepare:
    input:
        corpora=[resource(f"corpora/{name}.jsonl") for name in ("chitchat", "python")],
    output:
        LATTICE_PATHS.step("prepare", "pairs.json"),
    log:
        result("logs/lattice_prepare.log"),
    conda:
        ENV
    params:
        **params_of("lattice_prepare", LATTICE_BLOCKS["lattice_prepare"]),
    script:
        "../workflow/scripts/lattice_prepare.py"


rule lattice_embed:
    input:
        pairs=rules.lattice_prepare.output[0],
        model=lambda wildcards: model_files(SETTINGS.lattice.teachers[wildcards.backbone]),
    output:
        vectors=LATTICE_PATHS.step("embed", "{backbone}", "vectors.npz"),
        facts=LATTICE_PATHS.step("embed", "{backbone}", "facts.json"),
    log:
        result("logs/lattice_embed/{backbone}.log"),
    wildcard_constraints:
        backbone="|".join(LATTICE_PATHS.teachers),
    priority: 10  # the longest way to the end begins here
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("lattice_embed", LATTICE_BLOCKS["lattice_embed"]),
    script:
        "../workflow/scripts/lattice_embed.py"


rule lattice_fit:
    input:
        vectors=rules.lattice_embed.output.vectors,
    output:
        weights=LATTICE_PATHS.seeded("fit", "{backbone}", "{run}", "model.safetensors"),
        histories=LATTICE_PATHS.seeded("fit", "{backbone}", "{run}", "history.json"),
    log:
        result("logs/lattice_fit/{backbone}/{run}.log"),
    wildcard_constraints:
        backbone="|".join(LATTICE_PATHS.teachers),
        run="|".join(LATTICE_PATHS.arms),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("lattice_fit", LATTICE_BLOCKS["lattice_fit"]),
    script:
        "../workflow/scripts/lattice_fit.py"


rule lattice_measure:
    input:
        pairs=rules.lattice_prepare.output[0],
        vectors=rules.lattice_embed.output.vectors,
        embedding=rules.lattice_embed.output.facts,
        weights=lambda wildcards: LATTICE_PATHS.fits(wildcards.backbone, "model.safetensors"),
        histories=lambda wildcards: LATTICE_PATHS.fits(wildcards.backbone, "history.json"),
    output:
        readings=LATTICE_PATHS.step("measure", "{backbone}", "readings.npz"),
        facts=LATTICE_PATHS.step("measure", "{backbone}", "facts.json"),
    log:
        result("logs/lattice_measure/{backbone}.log"),
    wildcard_constraints:
        backbone="|".join(LATTICE_PATHS.teachers),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("lattice_measure", LATTICE_BLOCKS["lattice_measure"]),
    script:
        "../workflow/scripts/lattice_measure.py"


rule lattice_original:
    output:
        LATTICE_PATHS.step("original.json"),
    log:
        result("logs/lattice_original.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("lattice_original", LATTICE_BLOCKS["lattice_original"]),
    script:
        "../workflow/scripts/lattice_original.py"


rule lattice_planted:
    output:
        readings=LATTICE_PATHS.step("planted", "readings.npz"),
        facts=LATTICE_PATHS.step("planted", "facts.json"),
    log:
        result("logs/lattice_planted.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("lattice_planted", LATTICE_BLOCKS["lattice_planted"]),
    script:
        "../workflow/scripts/lattice_planted.py"


rule lattice:
    input:
        readings=[
            *expand(rules.lattice_measure.output.readings, backbone=LATTICE_PATHS.teachers),
            rules.lattice_planted.output.readings,
        ],
        facts=[
            *expand(rules.lattice_measure.output.facts, backbone=LATTICE_PATHS.teachers),
            rules.lattice_planted.output.facts,
        ],
        original=rules.lattice_original.output[0],
    output:
        result("lattice.json"),
        **pictures("lattice", "lattice"),
    log:
        result("logs/lattice.log"),
    conda:
        ENV
    params:
        **lineage_params("lattice", LATTICE_BLOCKS["lattice"]),
    script:
        "../workflow/scripts/lattice.py"
