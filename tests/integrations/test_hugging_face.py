"""Inside the Trainer of transformers, on a language model of some thousand parameters made from its configuration."""

from pathlib import Path
from typing import Any

import torch
from contract.optimizer_cases import same, shown, states
from integrations.cases import DESCENDING, framework, made, values
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_scheduler

STEPS_TAKEN, WARM_UP, CLIP, WORDS, LENGTH = 12, 3, 1.0, 16, 8


def language_model() -> GPT2LMHeadModel:
    """One layer of width 8, without dropout; the embedding is the output layer too."""
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": WORDS, "n_positions": LENGTH}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**shape, **ends, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def sentences() -> list[dict[str, Tensor]]:
    """Each word is the one before it plus one, modulo 16; the first one cannot be foretold, which -100 says."""
    rows = [(torch.arange(LENGTH) + start) % WORDS for start in range(WORDS)]
    asked = torch.arange(LENGTH) > 0
    return [{"input_ids": row, "labels": row.where(asked, -100)} for row in rows]


class Recorded:
    """Puts examples together, and keeps what it gave: the Trainer shuffles."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def __call__(self, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.batches.append({name: torch.stack([each[name] for each in examples]) for name in examples[0]})
        return self.batches[-1]


def trainer(optimizer: str, folder: Path, **options: Any) -> tuple[Trainer, Recorded]:
    net, recorded = language_model(), Recorded()
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, max_steps=STEPS_TAKEN, warmup_steps=WARM_UP, max_grad_norm=CLIP,
        lr_scheduler_type="linear", use_cpu=True, seed=0, report_to=[], disable_tqdm=True, logging_steps=4,
        dataloader_pin_memory=False, **options,
    )  # fmt: skip
    stepped = made(optimizer, net.parameters(), weight_decay=0.01)
    return Trainer(net, arguments, recorded, sentences(), optimizers=(stepped, None)), recorded


def plain(optimizer: str, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    net = language_model().train()
    stepped = made(optimizer, net.parameters(), weight_decay=0.01)
    scheduler = get_scheduler("linear", stepped, WARM_UP, STEPS_TAKEN)
    for batch in batches[:STEPS_TAKEN]:
        loss = net(**batch, num_items_in_batch=torch.tensor(4 * (LENGTH - 1))).loss
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        stepped.step(**shown(stepped, loss))
        scheduler.step()
        stepped.zero_grad()
    return values(net)


@framework("Hugging Face Trainer")
def test_trains_as_the_plain_loop(optimizer: str, tmp_path: Path) -> None:
    run, recorded = trainer(optimizer, tmp_path, save_strategy="no")
    run.train()
    torch.testing.assert_close(values(run.model), plain(optimizer, recorded.batches))
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert optimizer not in DESCENDING or losses[-1] < losses[0]


@framework("Hugging Face Trainer")
def test_a_checkpoint_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    whole, _ = trainer(optimizer, tmp_path, save_strategy="steps", save_steps=STEPS_TAKEN // 2)
    whole.train()
    resumed, _ = trainer(optimizer, tmp_path, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS_TAKEN // 2}"))
    assert resumed.state.global_step == STEPS_TAKEN
    assert same(values(resumed.model), values(whole.model))
    assert same(states(resumed.optimizer.optimizer), states(whole.optimizer.optimizer))
