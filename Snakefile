"""mneme: four memory mechanisms, built, run and tested with controls.

snakemake --cores 2                                   the embedded default
snakemake --cores 2 --configfile config/smoke.yaml    another size (smoke, fast, long, gpu)
snakemake --cores 1 --resources gpu=1 results/fatigue.json      one target on a GPU node
"""


configfile: "config/assets.yaml"
configfile: "config/config.yaml"
configfile: "config/claims.yaml"


include: "rules/common.smk"
include: "rules/assets.smk"
include: "rules/routing.smk"
include: "rules/order.smk"
include: "rules/zeta.smk"
include: "rules/zeta_transfer.smk"
include: "rules/ttt.smk"
include: "rules/lattice.smk"
include: "rules/summary.smk"


rule all:
    default_target: True
    input:
        result("summary.json"),
        result("report.html"),
    localrule: True
