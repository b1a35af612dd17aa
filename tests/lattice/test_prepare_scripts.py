"""Scripts `lattice_prepare` and `lattice_embed`, one after the other, without Snakemake."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from namelist import Namelist

from mneme.core.artefacts import read_arrays, read_json
from mneme.core.corpora import Document, write_documents

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
SIZES = {"train": 8, "val": 2, "test": 6}
PAIRS = {"min_words": 2, "per_group": {"chat": 2, "code": 2}, **SIZES, "seed": 0}
TEACHER = {
    "source": "synthetic",
    "synthetic": {"width": 5, "rho": 0.5, "seed": 0},
    "name": "synthetic",
    "revision": None,
    "dtype": "float32",
    "layers": [-1],
    "max_tokens": 1,
    "normalise": True,
    "license_url": "",
}


def run(rule, given, made, config):
    params = SimpleNamespace(config=config, code="c0de", packages=["numpy"], device="cpu")
    snakemake = SimpleNamespace(
        input=Namelist(**given),
        output=made,
        params=params,
        wildcards=SimpleNamespace(),
        threads=1,
        log=[],
    )
    runpy.run_path(str(SCRIPTS / f"{rule}.py"), init_globals={"snakemake": snakemake})


@pytest.fixture(name="pairs", scope="module")
def _pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    chats = [Document(f"chat {n}", "\n".join(f"turn {n} {i}" for i in range(4))) for n in range(9)]
    files = [
        Document(f"file{n}.py", f'def f(x{n}):\n    """Return number {n}."""') for n in range(9)
    ]
    write_documents(folder / "chitchat.jsonl", chats)
    write_documents(folder / "python.jsonl", files)
    corpora = [folder / "chitchat.jsonl", folder / "python.jsonl"]
    run("lattice_prepare", {"corpora": corpora}, [folder / "pairs.json"], {"pairs": PAIRS})
    return folder / "pairs.json"


def test_prepared_pairs_are_triples_of_every_split(pairs):
    content = read_json(pairs)
    assert {name: len(part) for name, part in content.items()} == SIZES
    group, question, answer = content["test"][0]
    assert group.startswith("chat ")
    assert (question[:-1], answer[:-1]) == (f"turn {group[5:]} ",) * 2
    assert int(answer[-1]) == int(question[-1]) + 1


def test_every_text_is_embedded_and_described(pairs, tmp_path):
    made = Namelist(vectors=tmp_path / "vectors.npz", facts=tmp_path / "facts.json")
    config = {"name": "drawn", "teacher": TEACHER, "resources": str(tmp_path), "batch": 4}
    run("lattice_embed", {"pairs": pairs}, made, config)
    arrays = read_arrays(made.vectors)
    assert {name: array.shape for name, array in arrays.items()} == {
        f"{split}_{side}": (size, 5)
        for split, size in {**SIZES, "eight": 8}.items()
        for side in ("questions", "answers")
    }
    assert all(array.dtype == np.float32 for array in arrays.values())
    facts = read_json(made.facts)
    known = {"name": "drawn", "dim": 5, "texts": 48, "bytes": 48 * 5 * 4, "code": "c0de"}
    assert {name: facts[name] for name in known} == known
    assert facts["teacher"] == TEACHER
    assert facts["seconds"] >= facts["embed_s"] >= 0


def test_too_few_pairs_are_one_sentence(pairs, tmp_path, capsys):
    corpora = [pairs.with_name("chitchat.jsonl"), pairs.with_name("python.jsonl")]
    config = {"pairs": json.loads(json.dumps(PAIRS)) | {"train": 20}}
    with pytest.raises(SystemExit):
        run("lattice_prepare", {"corpora": corpora}, [tmp_path / "pairs.json"], config)
    assert "too few for 10 train pairs" in capsys.readouterr().err
    assert not (tmp_path / "pairs.json").exists()
