"""Options that fine-tuning strategies share; apart from the loop, so that plugins import light."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keeperd.api import Options


class PriorOptions(Options):
    """Which shares of the classes the candidate answers for."""

    prior: bool = Field(
        True,
        description="correct the class prior of the mix of rows in the loss (logit adjustment; Menon et al."
        " 2021, ICLR)",
    )
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="with prior: 0 answers for the stream's own class shares, 1 for equal ones, as if rare"
        " classes were frequent (Menon et al. 2021, ICLR)",
    )


class WiseOptions(Options):
    """How much of the update is taken."""

    wise: bool = Field(
        True,
        description="mix the weights with the champion's at the end, in the proportion that is best on the"
        " validation rows (WiSE-FT; Wortsman et al. 2022, CVPR); rows of new labels are left alone",
    )


class LoopOptions(PriorOptions):
    """Options of every strategy that fine-tunes, from the champion or from the base model."""

    epochs: int = Field(3, ge=1, le=100, description="passes over the rows")
    batch_size: int = Field(32, ge=1, le=4096, description="rows of one step")
    accumulate: int = Field(
        1, ge=1, le=256, description="parts that a batch is run in, one by one: the same steps in less memory"
    )
    body_lr: float = Field(1e-4, gt=0, lt=1, description="learning rate of the encoder")
    head_lr: float = Field(1e-3, gt=0, lt=1, description="learning rate of what follows the encoder")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="of AdamW (Loshchilov and Hutter 2019, ICLR)")
    warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the steps in which the learning rate rises anew, then it falls to 0"
        " (re-warming; Gupta et al. 2023, arXiv:2308.04014)",
    )
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    head_first: bool = Field(
        True, description="fit the last layer before all else (LP-FT; Kumar et al. 2022, ICLR)"
    )
    patience: int = Field(2, ge=1, description="epochs of clearly worse validation after which it ends")
    bf16: Literal["auto", "on", "off"] = Field(
        "auto", description="compute in bfloat16; auto: where the processor has it"
    )
    checkpoint_steps: int = Field(500, ge=1, description="steps between checkpoints, besides one an epoch")


class UpdateOptions(LoopOptions, WiseOptions):
    """Options of every strategy that fine-tunes the champion: what keeps it from forgetting. All of them
    go together; 0 or "none" leaves one out."""

    epochs: int = Field(2, ge=1, le=100, description="passes over the new rows, each with its replayed rows")
    replay: float = Field(
        1.0, ge=0, le=10, description="replayed old rows for each new row (Rolnick et al. 2019, NeurIPS)"
    )
    distill: float = Field(
        0.1,
        ge=0,
        description="pull to the champion's logits on replayed rows (DER++; Buzzega et al. 2020, NeurIPS);"
        " more of it means fewer changed answers, and new labels that are learnt less well",
    )
    kd: float = Field(
        0.0,
        ge=0,
        description="pull to the champion's softened answers on all rows (distillation; Hinton et al. 2015,"
        " arXiv:1503.02531; without replay: LwF; Li and Hoiem 2016, ECCV)",
    )
    kd_temperature: float = Field(2.0, gt=0, le=100, description="how soft the answers are made for kd")
    regulariser: Literal["none", "l2", "l2-sp", "ewc", "kl"] = Field(
        "none",
        description="what R of the loss L + strength * R is: l2 of the weights; l2-sp, of their way from the"
        " champion (Li et al. 2018, ICML); ewc, the same with each weight's Fisher information (online EWC;"
        " Schwarz et al. 2018, ICML); kl of the champion's answers from the candidate's (Yu et al. 2013,"
        " ICASSP)",
    )
    strength: float = Field(0.01, ge=0, description="weight of the regulariser")
