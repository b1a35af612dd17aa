"""Room `zeta`: zeros of the zeta function, SpacingMDN, Memory Bank, primes.

needs   nothing but a processor: the zeros are computed
makes   zeros.json mdn.json slot_ablation.json diagnostics.json kernel.json statistics.json, figures
steps   zeros -> zeta_prepare (a system) -> zeta_fit, zeta_primes_fit (a run) -> zeta_*measure
        -> mdn (beside zeta_references, zeta_floor), slot_ablation, diagnostics, kernel, statistics
"""

ZETA_PATHS = zeta_paths(SETTINGS.results, SETTINGS.zeta)
ZETA_BLOCKS = zeta_blocks(SETTINGS.zeta, ZETA_PATHS)


rule zeros:
    output:
        result("zeros.json"),
        **ZETA_PATHS.zeros,
    log:
        result("logs/zeros.log"),
    conda:
        ENV
    threads: SETTINGS.zeta.zeros.threads
    params:
        **lineage_params("zeros", ZETA_BLOCKS["zeros"]),
    script:
        "../workflow/scripts/zeros.py"


rule zeta_prepare:
    input:
        heights=rules.zeros.output.heights,
    output:
        ZETA_PATHS.step("prepare", "{system}.npz"),
    log:
        result("logs/zeta_prepare/{system}.log"),
    conda:
        ENV
    params:
        **params_of("zeta_prepare", ZETA_BLOCKS["zeta_prepare"]),
    script:
        "../workflow/scripts/zeta_prepare.py"


rule zeta_fit:
    input:
        series=lambda wildcards: ZETA_PATHS.series(wildcards.run),
    output:
        **ZETA_PATHS.fitted("{run}"),
    log:
        result("logs/zeta_fit/{run}.log"),
    wildcard_constraints:
        run="|".join(ZETA_PATHS.transformer_runs),
    priority: 5
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("zeta_fit", ZETA_BLOCKS["zeta_fit"]),
    script:
        "../workflow/scripts/zeta_fit.py"


rule zeta_primes_fit:
    input:
        series=lambda wildcards: ZETA_PATHS.series(wildcards.run),
    output:
        **ZETA_PATHS.fitted("{run}"),
    log:
        result("logs/zeta_primes_fit/{run}.log"),
    wildcard_constraints:
        run="|".join(ZETA_PATHS.phase_runs),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("zeta_primes_fit", ZETA_BLOCKS["zeta_primes_fit"]),
    script:
        "../workflow/scripts/zeta_primes_fit.py"


rule zeta_measure:
    input:
        series=lambda wildcards: ZETA_PATHS.series(wildcards.run),
        weights=rules.zeta_fit.output.weights,
    output:
        ZETA_PATHS.seeded("measure", "{run}", "windows.npz"),
    log:
        result("logs/zeta_measure/{run}.log"),
    wildcard_constraints:
        run="|".join(ZETA_PATHS.transformer_runs),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("zeta_measure", ZETA_BLOCKS["zeta_measure"]),
    script:
        "../workflow/scripts/zeta_measure.py"


rule zeta_primes_measure:
    input:
        series=lambda wildcards: ZETA_PATHS.series(wildcards.run),
        weights=rules.zeta_primes_fit.output.weights,
    output:
        ZETA_PATHS.seeded("measure", "{run}", "windows.npz"),
    log:
        result("logs/zeta_primes_measure/{run}.log"),
    wildcard_constraints:
        run="|".join(ZETA_PATHS.phase_runs),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("zeta_primes_measure", ZETA_BLOCKS["zeta_primes_measure"]),
    script:
        "../workflow/scripts/zeta_primes_measure.py"


rule zeta_references:
    input:
        series=rules.zeta_prepare.output[0],
    output:
        readings=ZETA_PATHS.step("references", "{system}", "windows.npz"),
        facts=ZETA_PATHS.step("references", "{system}", "facts.json"),
    log:
        result("logs/zeta_references/{system}.log"),
    conda:
        ENV
    params:
        **params_of("zeta_references", ZETA_BLOCKS["zeta_references"]),
    script:
        "../workflow/scripts/zeta_references.py"


rule zeta_floor:
    output:
        ZETA_PATHS.step("floor", "floor.json"),
    log:
        result("logs/zeta_floor.log"),
    conda:
        ENV
    params:
        **params_of("zeta_floor", ZETA_BLOCKS["zeta_floor"]),
    script:
        "../workflow/scripts/zeta_floor.py"


rule mdn:
    input:
        **ZETA_PATHS.beside_runs(),
        measures=ZETA_PATHS.measures(),
        histories=ZETA_PATHS.histories(),
        floor=rules.zeta_floor.output[0],
    output:
        result("mdn.json"),
        *pictures("mdn_training", "zeta").values(),
        **pictures("mdn", "zeta"),
    log:
        result("logs/mdn.log"),
    conda:
        ENV
    params:
        **lineage_params("mdn", ZETA_BLOCKS["mdn"]),
    script:
        "../workflow/scripts/mdn.py"


rule slot_ablation:
    input:
        series=ZETA_PATHS.step("prepare", "zeta.npz"),
        weights=ZETA_PATHS.of("fit", ZETA_PATHS.slot_runs, "model.safetensors"),
        measures=ZETA_PATHS.of("measure", ZETA_PATHS.ablation_runs, "windows.npz"),
    output:
        result("slot_ablation.json"),
        **pictures("slot_ablation", "zeta"),
    log:
        result("logs/slot_ablation.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **lineage_params("slot_ablation", ZETA_BLOCKS["slot_ablation"]),
    script:
        "../workflow/scripts/slot_ablation.py"


rule diagnostics:
    input:
        series=ZETA_PATHS.step("prepare", "zeta.npz"),
        weights=ZETA_PATHS.of("fit", ZETA_PATHS.slot_runs, "model.safetensors"),
    output:
        result("diagnostics.json"),
        **pictures("diagnostics", "zeta"),
    log:
        result("logs/diagnostics.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **lineage_params("diagnostics", ZETA_BLOCKS["diagnostics"]),
    script:
        "../workflow/scripts/diagnostics.py"


rule kernel:
    input:
        series=expand(rules.zeta_prepare.output[0], system=ZETA_PATHS.systems),
        weights=ZETA_PATHS.of("fit", ZETA_PATHS.kernel_runs, "model.safetensors"),
    output:
        result("kernel.json"),
        **pictures("kernel", "zeta"),
    log:
        result("logs/kernel.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **lineage_params("kernel", ZETA_BLOCKS["kernel"]),
    script:
        "../workflow/scripts/kernel.py"


rule statistics:
    input:
        series=expand(rules.zeta_prepare.output[0], system=ZETA_PATHS.systems),
        measures=ZETA_PATHS.rolled(),
    output:
        result("statistics.json"),
        **pictures("statistics", "zeta"),
    log:
        result("logs/statistics.log"),
    conda:
        ENV
    params:
        **lineage_params("statistics", ZETA_BLOCKS["statistics"]),
    script:
        "../workflow/scripts/statistics.py"
