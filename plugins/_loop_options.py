"""Options that every fine-tuning strategy has; apart from the loop, so that plugins import light."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keeperd.api import Options


class LoopOptions(Options):
    """Options of every strategy that fine-tunes."""

    epochs: int = Field(3, ge=1, le=100, description="passes over the new rows, each with its replayed rows")
    batch_size: int = Field(32, ge=1, le=4096, description="rows of one step")
    body_lr: float = Field(1e-4, gt=0, lt=1, description="learning rate of the encoder")
    head_lr: float = Field(1e-3, gt=0, lt=1, description="learning rate of what follows the encoder")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="of AdamW (Loshchilov and Hutter 2019, ICLR)")
    warmup: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which the learning rate rises; then it falls to 0"
    )
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    replay: float = Field(
        1.0, ge=0, le=10, description="replayed old rows for each new row (Rolnick et al. 2019, NeurIPS)"
    )
    distill: float = Field(
        0.3,
        ge=0,
        description="pull to the champion's logits on replayed rows (DER++; Buzzega et al. 2020, NeurIPS)",
    )
    patience: int = Field(2, ge=1, description="epochs of clearly worse validation after which it ends")
    bf16: Literal["auto", "on", "off"] = Field(
        "auto", description="compute in bfloat16; auto: where the processor has it"
    )
    checkpoint_steps: int = Field(500, ge=1, description="steps between checkpoints, besides one an epoch")
