"""Room `zeta`, elsewhere: trained runs on blocks of zeros at other heights.

needs   the heights of the blocks, the series, the weights of the runs of `zeta.transfer`
makes   zeta/transfer/windows.npz, which mdn.json tells
"""


rule zeta_transfer:
    input:
        series=ZETA_PATHS.step("prepare", "zeta.npz"),
        blocks=ZETA_PATHS.zeros["blocks"],
        weights=ZETA_PATHS.of("fit", SETTINGS.zeta.transfer.runs, "model.safetensors"),
    output:
        ZETA_PATHS.transfer,
    log:
        result("logs/zeta_transfer.log"),
    conda:
        ENV
    threads: SETTINGS.threads
    resources:
        gpu=1,
    params:
        **params_of("zeta_transfer", ZETA_BLOCKS["zeta_transfer"]),
    script:
        "../workflow/scripts/zeta_transfer.py"
