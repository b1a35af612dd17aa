"""Frame of every script: log, threads, device, clock, and one sentence for a user's mistake.

A script is `with stage(snakemake) as job:` around read, build config, call one library function,
write. Nothing below the script knows about Snakemake.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mneme.core import devices
from mneme.core.artefacts import ArtefactError, read_json, write_json
from mneme.core.config import build, fingerprint
from mneme.core.digests import forget_digests, verified_digests, write_digests
from mneme.core.headline import Headline, write_headline
from mneme.core.secrets import redact

T = TypeVar("T")


class Stage:
    """What a script may ask of its frame."""

    def __init__(self, snakemake: Any) -> None:
        self.input, self.output = snakemake.input, snakemake.output
        self.params, self.wildcards = snakemake.params, snakemake.wildcards
        self.threads = int(snakemake.threads)
        self.started = time.perf_counter()
        self.device: Any = None
        self._digests: Mapping[str, str] = {}
        self._log = str(snakemake.log[0]) if len(snakemake.log) else None
        if self._log:
            with contextlib.suppress(OSError):  # of a full disk the sentence below tells
                Path(self._log).parent.mkdir(parents=True, exist_ok=True)
                Path(self._log).write_text("")
                _record_path(self._log).unlink(missing_ok=True)

    def settings(self, cls: type[T], *, where: str) -> T:
        """Build the stage's settings from `params.config`."""
        return build(cls, self.params.config, where=where)

    def seconds(self) -> float:
        """Wall time since the stage began, s."""
        return round(time.perf_counter() - self.started, 3)

    def log(self, line: str) -> None:
        """Write one line with the elapsed time to the rule's log and to the terminal."""
        print(self._to_log(line), file=sys.stderr, flush=True)

    def _to_log(self, line: str) -> str:
        text = f"[{self.seconds():8.1f} s] {redact(line)}"
        if self._log:
            # A full disk must not keep the sentence about it from the terminal.
            with contextlib.suppress(OSError), open(self._log, "a", encoding="utf-8") as handle:
                handle.write(text + "\n")
        return text

    def trace(self, error: BaseException) -> bool:
        """Write the error's traceback to the rule's log only; tell if a secret was hidden in it."""
        text = "".join(traceback.format_exception(error))
        self._to_log(text)
        return redact(text) != text

    def use_torch(self) -> Any:
        """Set threads and determinism, resolve `params.device`, and return the torch device."""
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        # as use_deterministic_algorithms(True, warn_only=True), which imports the whole compiler
        torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.allow_tf32 = False  # as for matrix products: float32 unless asked
        self.device = devices.resolve(self.params.device)
        self.log(f"device {self.device}, {self.threads} threads")
        return self.device

    def progress(self, steps: Iterable[T], *, unit: str) -> Iterator[T]:
        """Show progress: a bar on the terminal, a line in the log every ten seconds."""
        from tqdm import tqdm

        bar, said = tqdm(steps, unit=unit), self.seconds()
        for step in bar:
            yield step
            if self.seconds() - said > 10:
                said = self.seconds()
                self._to_log(f"{bar.n + 1} of {bar.total} {unit} done")

    def begin(self) -> None:
        """Hash the inputs; raises `ArtefactError` for one that changed since it was made."""
        forget_digests(self.output)
        self._digests = verified_digests(self.input)

    def end(self) -> None:
        """Leave the outputs' digests, and time, memory and device, for those who read them."""
        write_digests(self.output)
        self.record()

    def fingerprint(self) -> str:
        """Hash code, packages, device, settings, inputs: what a resumable part must be made by."""
        names = getattr(self.params, "packages", ())
        versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
        made_by = [self.params.code, fingerprint(self.params.config), str(self.device), *versions]
        return hashlib.sha256(" ".join([*made_by, *self._digests.values()]).encode()).hexdigest()[
            :16
        ]

    def inputs(self) -> dict[str, str]:
        """Hash every input file: path -> 16 hex digits of SHA-256 over its content."""
        return {path: digest[:16] for path, digest in self._digests.items()}

    def provenance(self, **further: Any) -> dict[str, Any]:
        """Describe what made a file: device, threads, versions, and whatever the script adds."""
        facts = self._device_facts()
        names = getattr(self.params, "packages", ())
        versions = {name: importlib.metadata.version(name) for name in names}
        versions["python"] = sys.version.split()[0]
        memory = round(devices.peak_memory_mb(), 1)
        return {**facts, "versions": versions, "peak_memory_mb": memory, **further}

    def headline(self, path: str, *, phase: str, runs: Any, published: Any, **further: Any) -> None:
        """Write the phase's headline file; `further` joins its provenance.

        Its `code` is `params.lineage`: the code of this stage and of all stages upstream of it.
        """
        config = self.params.config
        record = Headline(
            phase=phase,
            code=self.params.lineage,
            config=config,
            provenance=self.provenance(inputs=self.inputs(), **further),
            seconds=self.seconds(),
            runs=runs,
            published=published,
        )
        write_headline(path, record)

    def record(self) -> None:
        """Write time, memory and device beside the log, for the summary.

        They are those of the process that finished: what an interrupted one before it had spent on
        the parts that this one continued from is not in them.
        """
        if self._log:
            facts = self._device_facts()
            content = {
                "step": _step_name(self._log),
                "seconds": self.seconds(),
                "peak_memory_mb": round(devices.peak_memory_mb(), 1),
                "device": facts["device"],
                "device_name": facts["device_name"],
            }
            write_json(_record_path(self._log), content)

    def _device_facts(self) -> dict[str, Any]:
        if self.device is None:
            return {"device": None, "device_name": None}
        return devices.device_facts(self.device)


def read_record(log: str | Path) -> dict[str, Any]:
    """Read what the step that wrote `log` left beside it.

    Returns
    -------
    dict
        `step` (`rule` or `rule/wildcard`), `seconds`, `peak_memory_mb` (MiB), `device`,
        `device_name`, and `reason`: why the others are None, when there is no record.
    """
    path = _record_path(log)
    if path.is_file():
        return {**read_json(path), "reason": None}
    keys = ("seconds", "peak_memory_mb", "device", "device_name")
    reason = f"{path} is missing: made before records were kept, or copied without its logs"
    return {"step": _step_name(log), **dict.fromkeys(keys), "reason": reason}


def _record_path(log: str | Path) -> Path:
    return Path(log).with_suffix(".json")


def _step_name(log: str | Path) -> str:
    """Name a step by its log: `<folder>/logs/<rule>[/<wildcard>].log`."""
    return str(Path(log).with_suffix("")).rpartition("logs/")[2]


@contextlib.contextmanager
def stage(snakemake: Any) -> Iterator[Stage]:
    """Run a script's body; a user's mistake ends in one sentence and exit status 1."""
    devices.keep_memory()
    job = Stage(snakemake)
    try:
        job.begin()
        yield job
        job.end()
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            job.log(f"failed: {type(error).__name__}: {error}")
            if job.trace(error):  # Python would show it on the terminal
                raise SystemExit(1) from None
            raise
        job.log(f"ERROR: {sentence}")
        job.trace(error)
        raise SystemExit(1) from None
    job.log(f"done, peak memory {devices.peak_memory_mb():.0f} MiB")


def _sentence(error: Exception) -> str | None:
    """Return the one sentence for a user's mistake, or None for a mistake of ours."""
    if isinstance(error, ValueError) and str(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(ArtefactError("no space left on the disk: free some space and run again"))
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        where = error.filename or "a file"
        return f"{where} cannot be used ({error.strerror}): allow reading and writing and run again"
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "CUDA is out of memory: in room routing lower routing.protocol.batch, "
            "routing.calibration.batch, routing.prepare.calibration_chunks, or batch and tokens of "
            "routing.adapters.runs, or set the backbone's dtype to bfloat16; in room zeta lower "
            "zeta.training.batch, zeta.slot_ablation.rows or zeta.diagnostics.rows; in room ttt "
            "lower micro_batch or set checkpointed in training of ttt.recipes, or lower "
            "ttt.context.batch or ttt.grid.batch; in room lattice lower lattice.batch or batch in "
            "fit of lattice.recipes, or set checkpointed in their cell"
        )
    return None
