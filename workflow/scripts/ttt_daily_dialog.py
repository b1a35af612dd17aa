"""DailyDialog on the hub, at a pinned commit -> conversations."""

from mneme.core.corpora import write_documents
from mneme.core.stage import stage
from mneme.ttt.corpus_config import DailyDialogConfig
from mneme.ttt.daily_dialog import conversations, fetch

with stage(snakemake) as job:
    config = job.settings(DailyDialogConfig, where="ttt.daily_dialog")
    dialogues = fetch(config)
    documents = conversations(dialogues)
    job.log(f"{len(documents)} of {len(dialogues)} conversations kept")
    write_documents(job.output.corpus, documents)
