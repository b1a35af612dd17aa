"""Validation and addresses shared by every room; the only helper functions of the workflow.

needs   config (checked here, before the first job runs)
makes   nothing
"""

from pathlib import Path

from mneme.core.config import fingerprint
from mneme.core.lineage import lineages
from mneme.core.workflow import canonical, or_exit, require_quiet, require_writable, stage_params
from mneme.rooms import needs_of
from mneme.routing.blocks import rule_blocks
from mneme.routing.paths import RoutingPaths
from mneme.settings import load_settings
from mneme.zeta.blocks import zeta_blocks, zeta_paths

SETTINGS = or_exit(load_settings, config)
or_exit(require_writable, SETTINGS.results, "results")
or_exit(require_quiet, workflow.remote_exec and workflow.output_settings.verbose)
BACKBONE = SETTINGS.backbone
EMBEDDED = SETTINGS.chosen.source == "embedded"
ENV = "../envs/cpu.yaml"
SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
LINEAGE = lineages(SCRIPTS, needs_of(embedded=EMBEDDED))


wildcard_constraints:
    backbone="[^/]+",
    run="[a-z0-9_]+",
    mixer="[a-z0-9_]+",
    system="[a-z]+",


def params_of(name, block, **further):
    """Return a rule's params: code hash, packages, device and its block of settings."""
    return stage_params(SCRIPTS / f"{name}.py", block, device=SETTINGS.device, **further)


def lineage(name):
    """Return the hash over the code of a rule and of all rules upstream of it."""
    return LINEAGE(name)


def lineage_params(name, block):
    """Return the params of a rule that makes a headline file."""
    return params_of(name, block, lineage=lineage(name))


def headline_params(name, block):
    """Return the params of a rule that makes a headline file of the chosen backbone."""
    named = {"key": BACKBONE, "name": SETTINGS.chosen.name, "revision": SETTINGS.chosen.revision}
    return {**lineage_params(name, block), "backbone": canonical(named)}


def result(path):
    """Return a path below the results folder."""
    return f"{SETTINGS.results}/{path}"


def resource(path):
    """Return a path below the folder of shared resources."""
    return f"{SETTINGS.resources}/{path}"


def pictures(phase, room):
    """Return the figure of a phase in both forms, with its caption for `snakemake --report`."""
    caption = Path(workflow.basedir) / "workflow" / "report" / f"{phase}.rst"
    svg = report(result(f"{phase}.svg"), caption=str(caption), category=room)
    return {"svg": svg, "png": result(f"{phase}.png")}


def model_files(entry):
    """Return the files of a model that jobs depend on, none when the hub keeps them."""
    if entry.source == "embedded":
        return [resource(f"models/{entry.name}/model.safetensors")]
    if entry.source == "local":
        return [str(path) for path in sorted(Path(entry.name).glob("*.safetensors"))]
    return []
