"""Three real domains (plays, code, dialogue) through preparation, adapters, mixer and trace."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from mneme.core.backbones import BackboneConfig
from mneme.core.config import build, plain
from mneme.core.corpora import read_documents
from mneme.core.seeds import torch_generator
from mneme.core.workflow import merge
from mneme.nn.backbone import load
from mneme.nn.split import lower
from mneme.nn.tokenizer import encoder
from mneme.routing.blocks import rule_blocks
from mneme.routing.calibrate import calibrate
from mneme.routing.config import RoutingConfig
from mneme.routing.fit import fitted_adapters
from mneme.routing.lora import save_adapters
from mneme.routing.model import TemporalLora
from mneme.routing.prepare import domain_material, sizes_of, tuple_material
from mneme.routing.sequences import hysteresis_families
from mneme.routing.stages import AdapterFitConfig
from mneme.routing.states import states_of
from mneme.routing.trace import trace_batch

ROOT, CPU = Path(__file__).parents[2], torch.device("cpu")
NAMES = ("shakespeare", "python", "chitchat")


@pytest.fixture(scope="module")
def settings():
    base = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    smoke = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    merged = merge(base, smoke)
    merged["routing"]["domains"] = [{"name": name, "corpus": name} for name in NAMES]
    merged["routing"]["mixers"]["ours"]["epochs"] = 10
    backbone = build(BackboneConfig, base["backbones"]["smollm2-135m"], where="backbone")
    return build(RoutingConfig, merged["routing"], where="routing"), backbone


@pytest.fixture(scope="module")
def backbone(settings, embedded_model_dir):
    return load(settings[1], device=CPU, resources=Path(embedded_model_dir).parents[1])


@pytest.fixture(scope="module")
def material(settings, backbone, corpora_dir):
    config, pools, arrays = settings[0], {}, {}
    for name in NAMES:
        documents = read_documents(Path(corpora_dir) / f"{name}.jsonl")
        parts, pools[name] = domain_material(
            documents, encoder(backbone.tokenizer), config.prepare, name=name
        )
        arrays |= {f"{name}.{part}": value for part, value in parts.items()}
    return arrays | tuple_material(pools, config.pair, sizes_of(config), seed=0)


def test_a_mixer_of_three_domains_tells_them_apart_and_remembers_through_attention(
    settings, backbone, material
):
    config, entry = settings
    half = lower(backbone.model, entry.gate_layer)
    data = {"vocab": torch.tensor(backbone.model.config.vocab_size)}
    for name in NAMES:
        for part in ("calibration", "validation", "test"):
            ids = torch.as_tensor(material[f"{name}.{part}"], dtype=torch.long)
            data[f"{name}.{part}.ids"] = ids
            data[f"{name}.{part}"] = states_of(half, ids, batch=8, device=CPU)
    result = calibrate(
        data,
        config.mixers["ours"],
        config.calibration,
        domains=NAMES,
        generator=torch_generator(0, "mixer"),
        device=CPU,
    )
    assert result.test.token > 0.8, "three domains, chance is a third"
    families = hysteresis_families(material, config.protocol, domains=(0, 1), seed=0)
    wanted = {"ours": {"real", "same_domain", "blocked", "reset"}}
    found = trace_batch(half, families, {"ours": [result.mixer]}, wanted, slice(0, 4), device=CPU)
    size = config.protocol.segment_tokens
    weights = found[f"ours/real/{size}"]
    assert weights.shape == (1, 4, 3 * size, 3)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    late = weights[0, :, 2 * size - 10 : 2 * size, 1].mean()
    assert late > 0.6, "at the end of the code segment the weight lies on code; chance is a third"


def test_three_adapters_protect_both_earlier_domains_and_reload(
    settings, backbone, material, tmp_path
):
    config, entry = settings
    wildcards = SimpleNamespace(run="sleep")
    block = rule_blocks(config, entry, name="smollm2-135m", resources="x")["routing_adapter_fit"]
    assert callable(block)
    fit = build(AdapterFitConfig, plain(block(wildcards)), where="routing")
    with fitted_adapters(
        backbone.model,
        material,
        fit,
        seed=0,
        device=CPU,
        checkpoint=tmp_path / "checkpoint",
        fingerprint="test",
        log=lambda _: None,
    ) as fitted:
        save_adapters(fitted.model, tmp_path / "adapters", base_name=entry.name)
    assert set(fitted.losses) == {"base", *NAMES}
    for name in NAMES:
        assert np.mean(fitted.losses[name][name]) < np.mean(fitted.losses["base"][name])
    model = TemporalLora(
        backbone.model,
        {name: tmp_path / "adapters" / name for name in NAMES},
        mixer=None,
        gate_layer=entry.gate_layer,
    )
    ids = torch.as_tensor(material["chitchat.loss"][:1], dtype=torch.long)
    one_hot = torch.tensor([0.0, 0.0, 1.0]).expand(*ids.shape, 3)
    with torch.inference_mode():
        logits = model(ids, gates_BTK=one_hot).logits[:, :-1]
    model.unmix()
    nll = torch.nn.functional.cross_entropy(logits[0].float(), ids[0, 1:]).item()
    assert nll == pytest.approx(fitted.losses["chitchat"]["chitchat"][0], abs=2e-4)
